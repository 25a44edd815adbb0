#pragma once
// Internal.

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "lockstep/core/store/store.h"

namespace lockstep::store {

/// The contents of the memory store and of the TCP server: a map with the operations of Store, and a wait.
///
/// Thread safety: all functions from any thread.
class Table {
 public:
  /// `where` names the store in messages.
  explicit Table(std::string where) : where_(std::move(where)) {}

  void set(std::string_view key, std::string_view value);
  std::string get(std::string_view key, Deadline deadline);
  std::optional<std::string> try_get(std::string_view key) const;
  std::int64_t add(std::string_view key, std::int64_t amount);
  std::string compare_and_set(std::string_view key, std::optional<std::string_view> expected, std::string_view desired);
  bool erase(std::string_view key);
  /// Every get() that waits, and every later one that would wait, throws PeerError with `reason`.
  void close(const std::string& reason);

 private:
  void put(std::string_view key, std::string value);

  const std::string where_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::string, std::less<>> values_;
  std::string closed_;
};

/// A Store on `table`. `on_change` is called after each call that may have created `key`, from the caller's thread.
std::shared_ptr<Store> make_table_store(std::shared_ptr<Table> table,
                                        std::function<void(std::string_view key)> on_change);

}  // namespace lockstep::store
