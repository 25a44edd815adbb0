#include "lockstep/core/base/time_slice.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <optional>
#include <thread>

#include <gtest/gtest.h>

namespace lockstep::base {
namespace {

TEST(ShortTimeSlices, AreThisThreadsAloneAndForAsLongAsTheyLive) {
  const std::uint64_t before = time_slice_ns();
  if (before == 0) GTEST_SKIP() << "this kernel has no time slices of a thread's own (Linux 6.12 and later have)";
  ASSERT_GT(before, ShortTimeSlices::kSliceNs);
  std::optional<ShortTimeSlices> slices(std::in_place);
  EXPECT_EQ(time_slice_ns(), ShortTimeSlices::kSliceNs);
  std::optional<ShortTimeSlices> inner(std::in_place);
  inner.reset();
  EXPECT_EQ(time_slice_ns(), ShortTimeSlices::kSliceNs) << "the inner one gave back what it had not taken";
  slices.reset();
  EXPECT_EQ(time_slice_ns(), before);
}

TEST(ShortTimeSlices, ChangeNothingElse) {
  std::thread([] {
    const auto self = static_cast<id_t>(::gettid());
    const sched_param none = {};
    ASSERT_EQ(::setpriority(PRIO_PROCESS, self, 5), 0);
    ASSERT_EQ(::sched_setscheduler(0, SCHED_BATCH, &none), 0);
    const ShortTimeSlices slices;
    EXPECT_EQ(::getpriority(PRIO_PROCESS, self), 5);
    EXPECT_EQ(::sched_getscheduler(0), SCHED_BATCH);
  }).join();
}

}  // namespace
}  // namespace lockstep::base
