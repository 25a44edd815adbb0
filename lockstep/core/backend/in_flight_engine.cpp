#include "lockstep/core/backend/in_flight_engine.h"

namespace lockstep {

void InFlightEngine::show_in_flight() {
  const auto me = std::this_thread::get_id();
  if (user_ != me) shown_ = false;
  user_ = me;
  if (shown_ || idle()) return;
  InFlightList::of_this_thread().add(weak_from_this());
  shown_ = true;
}

bool InFlightEngine::progress_from_elsewhere() noexcept {
  if (entered_.exchange(true, std::memory_order_acquire)) return true;
  bool more = user_ == std::this_thread::get_id();
  if (more) {
    try {
      more = !has_ended();
      if (more) progress();
      more = more && !idle();
    } catch (...) {
      more = false;  // The group's failure is kept, and its next call will say so.
    }
    shown_ = more;
  }
  entered_.store(false, std::memory_order_release);
  return more;
}

bool InFlightEngine::progress_in_background() noexcept {
  if (entered_.exchange(true, std::memory_order_acquire)) return true;
  bool more = !idle() && !has_ended();
  try {
    if (more) progress();
  } catch (...) {
    more = false;  // As above.
  }
  entered_.store(false, std::memory_order_release);
  return more;
}

}  // namespace lockstep
