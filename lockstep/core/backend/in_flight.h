#pragma once
// What a thread has in flight in all of its groups, so that waiting in one group does not hold up the others.

#include <memory>
#include <vector>

namespace lockstep {

/// One group's operations in flight on this rank.
class InFlight {
 public:
  virtual ~InFlight() = default;
  /// Moves them as far as they go, where no other thread is in the group; never waits, never throws: what fails is
  /// found by the group's next call. False when nothing is in flight any more.
  virtual bool progress_from_elsewhere() noexcept = 0;
  /// The same from a thread of Lockstep's own (background.h). Groups that need none say that nothing is in flight.
  virtual bool progress_in_background() noexcept { return false; }
};

/// The groups that a thread has begun something in and not yet seen complete. One per thread.
class InFlightList {
 public:
  static InFlightList& of_this_thread();

  /// Adds a group that is not there yet.
  void add(const std::weak_ptr<InFlight>& group);
  bool empty() const noexcept { return groups_.empty(); }
  /// True when there are groups besides the one that waits.
  bool has_others() const noexcept { return groups_.size() > 1; }
  /// Moves the groups but `waiting`, and drops those with nothing left to do.
  void progress_others(const InFlight* waiting);

 private:
  std::vector<std::weak_ptr<InFlight>> groups_;
};

}  // namespace lockstep
