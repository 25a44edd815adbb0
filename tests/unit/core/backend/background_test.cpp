// The thread that looks at what is in flight between hosts: when it looks, when it ends, and who may outlive it.

#include "lockstep/core/backend/background.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>

#include <gtest/gtest.h>

namespace lockstep {
namespace {

std::atomic<int> threads_ended{0};

struct CountsTheEndOfItsThread {
  ~CountsTheEndOfItsThread() { ++threads_ended; }
};

/// Has one operation in flight at a time, which is complete at the next look; each but the last is followed by another,
/// which its caller begins right after that look.
class Group final : public InFlight {
 public:
  explicit Group(int operations) : left_(operations) {}

  bool progress_from_elsewhere() noexcept override { return false; }
  bool progress_in_background() noexcept override {
    thread_local const CountsTheEndOfItsThread counts;
    const std::lock_guard lock(mutex_);
    if (left_ == 0) return false;
    if (--left_ == 0) {
      changed_.notify_all();
    } else {
      Background::wake();
    }
    return false;
  }
  /// True once all are complete; false where nobody looks.
  bool completes() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(30), [this] { return left_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int left_;
};

// More looks than the thread takes before it falls asleep.
TEST(Background, FindsWhatBeginsRightAfterALook) {
  const auto group = std::make_shared<Group>(1000);
  Background::add(group);
  EXPECT_TRUE(group->completes());
  Background::remove(*group);
}

TEST(Background, ItsThreadIsGoneWithTheLastGroup) {
  for (int round = 0; round < 5; ++round) {
    const int ended = threads_ended;
    const auto first = std::make_shared<Group>(1);
    const auto second = std::make_shared<Group>(1);
    Background::add(first);
    Background::add(second);
    EXPECT_TRUE(first->completes() && second->completes());
    Background::remove(*first);
    EXPECT_EQ(threads_ended, ended);
    Background::remove(*second);
    EXPECT_EQ(threads_ended, ended + 1);
  }
}

/// A global that has a group at the end of the program, and makes another one there.
struct Global {
  Global() = default;
  ~Global() {
    const auto late = std::make_shared<Group>(1);
    Background::add(late);
    const bool is_looked_at = late->completes();
    Background::remove(*late);
    Background::remove(*group);
    if (!is_looked_at) std::_Exit(1);
  }
  Global(const Global&) = delete;
  Global& operator=(const Global&) = delete;

  std::shared_ptr<Group> group = std::make_shared<Group>(1);
};

[[noreturn]] void exit_with_a_global() {
  // Made before anything of the background is, and so destroyed after it.
  static const Global global;
  Background::add(global.group);
  std::exit(global.group->completes() ? 0 : 1);
}

TEST(BackgroundDeathTest, AGlobalMayOutliveEveryStatic) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(exit_with_a_global(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace lockstep
