#pragma once
// What engines share of being one of several that a thread has something in flight in.

#include <atomic>
#include <memory>
#include <thread>

#include "lockstep/core/backend/in_flight.h"

namespace lockstep {

/// Calls hold `entered_` (a Turn) from beginning to end; whoever looks in finds it held, or holds it for one step.
/// Held by shared_ptr, since a thread that has something in flight here keeps a weak one.
class InFlightEngine : public InFlight, public std::enable_shared_from_this<InFlightEngine> {
 public:
  bool progress_from_elsewhere() noexcept final;
  bool progress_in_background() noexcept final;

 protected:
  /// At the end of a call that has begun something: the calling thread looks after it from now on.
  void show_in_flight();

  std::atomic<bool> entered_{false};

 private:
  /// Moves what is in flight as far as it goes; true when something moved. May throw: the failure is then kept.
  virtual bool progress() = 0;
  virtual bool idle() const noexcept = 0;
  /// Once it has failed its buffers are the caller's again, and nothing moves.
  virtual bool has_ended() noexcept = 0;

  std::thread::id user_{};  ///< the thread that last began something
  bool shown_ = false;      ///< stands in the list of that thread
};

}  // namespace lockstep
