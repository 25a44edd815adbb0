#pragma once

#include <cstdint>
#include <memory>

#include "lockstep/core/base/deadline.h"

namespace lockstep {

class Communicator;

/// A handle on one operation in flight. Cheap to copy; keeps its communicator alive. The operation's buffers must
/// outlive its completion, not this handle; dropping the handle does not cancel anything.
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
  /// The operation's number in its group (1, 2, 3 ...); 0 for a default-constructed Work.
  std::uint64_t sequence() const noexcept { return sequence_; }

 private:
  friend class Communicator;
  Work(std::shared_ptr<Communicator> communicator, std::uint64_t sequence, Deadline deadline)
      : communicator_(std::move(communicator)), sequence_(sequence), deadline_(deadline) {}

  std::shared_ptr<Communicator> communicator_;
  std::uint64_t sequence_ = 0;
  Deadline deadline_ = Deadline::none();
};

}  // namespace lockstep
