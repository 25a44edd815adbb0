#pragma once

#include <cstdint>
#include <memory>

#include "lockstep/core/base/deadline.h"

namespace lockstep {

class Communicator;
struct Message;

/// A handle on one operation or message in flight. Cheap to copy; keeps its communicator alive. The buffers must
/// outlive the operation's completion, not this handle; dropping the handle does not cancel anything.
///
/// Thread safety: as the communicator's: one thread at a time.
class Work {
 public:
  /// Complete from the start.
  Work() = default;

  /// Moves the operation forward without waiting; true when it is complete. Throws as wait() does, but for time.
  bool done();
  /// Returns when the operation is complete: results are in place and inputs may be changed.
  /// The deadline is the one that the operation was started with.
  /// Throws TimeoutError, PeerError, MismatchError, AbortedError; the communicator is unusable afterwards.
  void wait();
  /// The operation's number in its group (1, 2, 3 ...); messages are numbered apart. 0 for a default-constructed Work.
  std::uint64_t sequence() const noexcept { return sequence_; }
  /// Of a send or recv that is complete: the rank at the other end; otherwise -1.
  int peer() const noexcept { return peer_; }

 private:
  friend class Communicator;
  Work(std::shared_ptr<Communicator> communicator, std::uint64_t sequence, Deadline deadline)
      : communicator_(std::move(communicator)), sequence_(sequence), deadline_(deadline) {}
  Work(std::shared_ptr<Communicator> communicator, const Message& message, Deadline deadline);
  void complete(int source);

  std::shared_ptr<Communicator> communicator_;
  std::uint64_t sequence_ = 0;
  Deadline deadline_ = Deadline::none();
  bool is_message_ = false;
  bool is_complete_ = false;  ///< a message that was found complete
  int asked_peer_ = -1;       ///< of a message; kAnySource
  int peer_ = -1;
  std::shared_ptr<int> source_;  ///< of a receive from any rank: for all copies, since the backend tells it once
};

}  // namespace lockstep
