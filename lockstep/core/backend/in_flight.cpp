#include "lockstep/core/backend/in_flight.h"

#include <algorithm>

namespace lockstep {

InFlightList& InFlightList::of_this_thread() {
  thread_local InFlightList list;
  return list;
}

// No thread need ever call progress_others(), and a group goes to and fro between the threads that use it: so the list
// is kept as short as there are groups. Nothing may move up, since groups add others while the list is gone through.
void InFlightList::add(const std::weak_ptr<InFlight>& group) {
  const auto is_group = [&](const auto& each) { return !each.owner_before(group) && !group.owner_before(each); };
  if (std::ranges::any_of(groups_, is_group)) return;
  const auto gone = std::ranges::find_if(groups_, [](const auto& each) { return each.expired(); });
  if (gone != groups_.end()) {
    *gone = group;
  } else {
    groups_.push_back(group);
  }
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
