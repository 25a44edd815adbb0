#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "lockstep/core/base/deadline.h"

namespace lockstep {

/// Key-value rendezvous: how the ranks of a job find each other before they can communicate. Values are bytes.
///
/// Thread safety: all functions may be called from several threads; a blocked get() holds up no other thread's call.
/// Failure: UsageError (a bad key), TimeoutError (the text names the key and how long), SystemError or PeerError
/// (the server is gone; the text names its address).
class Store {
 public:
  virtual ~Store() = default;

  /// Sets `key` to `value`, replacing any old value, and wakes those who wait for it.
  virtual void set(std::string_view key, std::string_view value) = 0;
  /// The value of `key`; waits until it exists. Throws TimeoutError that names the key.
  virtual std::string get(std::string_view key, Deadline deadline) = 0;
  /// The value of `key`, or nothing; never waits.
  virtual std::optional<std::string> try_get(std::string_view key) = 0;
  /// Atomically adds to a decimal integer (a missing key counts as 0) and returns the sum.
  /// UsageError when the present value is no integer.
  virtual std::int64_t add(std::string_view key, std::int64_t amount) = 0;
  /// Atomically: if the value equals `expected` (nothing = the key must not exist), sets it to `desired`.
  /// Returns the value after the call: `desired` when it was set, else what is there (empty when the key is missing).
  virtual std::string compare_and_set(std::string_view key, std::optional<std::string_view> expected,
                                      std::string_view desired) = 0;
  /// True when a key was removed.
  virtual bool erase(std::string_view key) = 0;

  /// Waits until `key` exists. Throws TimeoutError that names it.
  void wait(std::string_view key, Deadline deadline) { get(key, deadline); }
};

/// A view of `store` in which every key is prefixed with "prefix/": one job's groups do not see each other's keys.
std::shared_ptr<Store> make_prefix_store(std::shared_ptr<Store> store, std::string prefix);

/// Inside one process; for ranks as threads, and for a world of one.
std::shared_ptr<Store> make_memory_store();

/// In a directory that all ranks see (created if missing); each key is a file that is written beside and renamed.
/// add and compare_and_set take an flock on the directory's lock file. Nothing is removed when the store goes:
/// the directory's owner removes it.
std::shared_ptr<Store> make_file_store(const std::string& directory);

}  // namespace lockstep
