#include "lockstep/core/backend/in_flight.h"

namespace lockstep {

InFlightList& InFlightList::of_this_thread() {
  thread_local InFlightList list;
  return list;
}

void InFlightList::progress_others(const InFlight* waiting) {
  for (std::size_t i = 0; i < groups_.size();) {
    const std::shared_ptr<InFlight> group = groups_[i].lock();
    // A group that moves may begin something in those that it is made of, which are then added at the end.
    const bool stays = group && (group.get() == waiting || group->progress_from_elsewhere());
    if (stays) {
      ++i;
    } else {
      groups_.erase(groups_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
}

}  // namespace lockstep
