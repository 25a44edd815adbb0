// A thread's list of groups with something in flight.

#include "lockstep/core/backend/in_flight.h"

#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/core/backend/in_flight_engine.h"
#include "tests/support/ranks.h"

namespace lockstep {
namespace {

class Group final : public InFlight {
 public:
  /// Made of `parts` groups, in which it begins something when it first moves; moves `moves` times in all.
  explicit Group(int moves, int parts = 0) : moves_(moves), parts_(static_cast<std::size_t>(parts)) {}

  bool progress_from_elsewhere() noexcept override {
    for (std::shared_ptr<Group>& part : parts_) {
      if (part) continue;
      part = std::make_shared<Group>(2);
      InFlightList::of_this_thread().add(part);
    }
    return ++moved_ < moves_;
  }
  int moved() const noexcept { return moved_; }
  const std::vector<std::shared_ptr<Group>>& parts() const noexcept { return parts_; }

 private:
  int moves_;
  int moved_ = 0;
  std::vector<std::shared_ptr<Group>> parts_;
};

TEST(InFlightList, GroupsAddedByOneThatMovesAreMovedToo) {
  support::run_ranks(1, [](int) {
    InFlightList& list = InFlightList::of_this_thread();
    const auto waiting = std::make_shared<Group>(1);
    const auto ends_first = std::make_shared<Group>(1);
    const auto made_of_parts = std::make_shared<Group>(3, 40);
    auto dropped = std::make_shared<Group>(9);
    for (const auto& group : {waiting, ends_first, made_of_parts, dropped}) list.add(group);
    dropped.reset();
    for (int round = 0; round < 5; ++round) list.progress_others(waiting.get());
    EXPECT_EQ(waiting->moved(), 0);
    EXPECT_EQ(ends_first->moved(), 1);
    EXPECT_EQ(made_of_parts->moved(), 3);
    for (const auto& part : made_of_parts->parts()) EXPECT_EQ(part->moved(), 2);
    EXPECT_FALSE(list.has_others());
    EXPECT_FALSE(list.empty());
  });
}

TEST(InFlightList, IsAsShortAsThereAreGroups) {
  support::run_ranks(1, [](int) {
    InFlightList& list = InFlightList::of_this_thread();
    for (int round = 0; round < 3; ++round) list.add(std::make_shared<Group>(1));
    const auto group = std::make_shared<Group>(1);
    for (int round = 0; round < 3; ++round) list.add(group);
    EXPECT_FALSE(list.has_others());
    const auto other = std::make_shared<Group>(1);
    list.add(other);
    EXPECT_TRUE(list.has_others());
    list.progress_others(group.get());
    EXPECT_EQ(other->moved(), 1);
    EXPECT_FALSE(list.has_others());
  });
}

/// Has something in flight always.
class BusyEngine final : public InFlightEngine {
 public:
  void begin() { show_in_flight(); }

 private:
  bool progress() override { return false; }
  bool idle() const noexcept override { return false; }
  bool has_ended() noexcept override { return false; }
};

TEST(InFlightEngine, StandsOnceInTheListOfEachOfItsThreads) {
  support::run_ranks(1, [](int) {
    const auto engine = std::make_shared<BusyEngine>();
    for (int round = 0; round < 3; ++round) {
      engine->begin();
      std::thread([&] { engine->begin(); }).join();
    }
    EXPECT_FALSE(InFlightList::of_this_thread().empty());
    EXPECT_FALSE(InFlightList::of_this_thread().has_others());
  });
}

}  // namespace
}  // namespace lockstep
