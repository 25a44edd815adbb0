#include "lockstep/core/backend/in_flight.h"

namespace lockstep {

InFlightList& InFlightList::of_this_thread() {
  thread_local InFlightList list;
  return list;
}

void InFlightList::progress_others(const InFlight* waiting) {
  std::erase_if(groups_, [waiting](const std::weak_ptr<InFlight>& each) {
    const std::shared_ptr<InFlight> group = each.lock();
    if (!group) return true;
    return group.get() != waiting && !group->progress_from_elsewhere();
  });
}

}  // namespace lockstep
