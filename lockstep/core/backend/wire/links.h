#pragma once
// A transport with what every group needs on it: small values that arrive unasked, and the group's failure.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "lockstep/core/backend/failure.h"
#include "lockstep/core/backend/wire/transport.h"

namespace lockstep::wire {

/// Receives small values of one peer on one channel, in order. Several receives are always posted, so that a value
/// takes one one-way delay.
class Incoming {
 public:
  static constexpr std::size_t kAhead = 4;

  Incoming(Transport& transport, int peer, int channel, std::size_t capacity);

  /// The oldest value that has come and was not popped; null where none has.
  const std::byte* front();
  /// Makes room for the next.
  void pop();
  /// What to wait for.
  Transfer& awaited() { return *slots_[next_].transfer; }

 private:
  struct Slot {
    std::vector<std::byte> bytes;
    std::unique_ptr<Transfer> transfer;
  };
  void post(Slot& slot);

  Transport& transport_;
  int peer_;
  int channel_;
  std::vector<Slot> slots_;
  std::size_t next_ = 0;
};

/// Sends small values, copied; they go in the order of one channel.
class Outgoing {
 public:
  explicit Outgoing(Transport& transport)
      : transport_(transport), pending_nbytes_(static_cast<std::size_t>(transport.world_size())) {}
  void send(int peer, int channel, std::span<const std::byte> head, std::span<const std::byte> payload = {});
  /// Forgets what has gone.
  void collect();
  /// True when all have gone.
  bool empty() const noexcept { return values_.empty(); }
  /// Bytes that have not gone to `peer` yet.
  std::size_t pending_nbytes(int peer) const { return pending_nbytes_[static_cast<std::size_t>(peer)]; }

 private:
  struct Value {
    int peer = 0;
    std::vector<std::byte> bytes;
    std::unique_ptr<Transfer> transfer;
  };
  Transport& transport_;
  std::deque<Value> values_;
  std::vector<std::size_t> pending_nbytes_;  // A rank each.
};

/// The group's failure: the first cause, found here or told by a peer.
///
/// Thread safety: report() from any thread; the rest from one at a time.
class FailureBox {
 public:
  explicit FailureBox(Transport& transport);

  /// Makes it the cause, unless there is one, and tells every peer. Never throws.
  void report(FailureKind kind, int guilty, std::uint64_t sequence, std::string_view text) noexcept;
  /// Looks whether a peer has told of one, and passes it on; true once the group has failed.
  bool poll() noexcept;
  /// Valid once poll() said true.
  const Failure& failure() const noexcept { return failure_; }

 private:
  void tell_everyone() noexcept;

  Transport& transport_;
  std::vector<Failure> told_;  // A rank each.
  std::vector<std::unique_ptr<Transfer>> receives_;
  std::mutex mutex_;
  Failure failure_;
  std::atomic<bool> failed_{false};
  bool telling_ = false;  // Guarded by mutex_, as are the sends.
  std::vector<std::unique_ptr<Transfer>> sends_;
};

}  // namespace lockstep::wire
