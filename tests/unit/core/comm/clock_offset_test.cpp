// Clocks of different hosts, compared by messages.

#include "lockstep/core/comm/clock_offset.h"

#include <vector>

#include <gtest/gtest.h>

#include "lockstep/core/base/deadline.h"
#include "tests/unit/core/comm/collective_fixture.h"

namespace lockstep {
namespace {

using testing::on_ranks;

TEST(ClockOffset, OfAQuestionIsExactWhenBothWaysTakeEquallyLong) {
  // Asked at 1000, 30 there and 30 back; the other clock is 400 behind, so it shows 630 when it is asked.
  EXPECT_EQ(offset_of_question(1000, 630, 60), (ClockOffset{400, 30}));
  // ... or 400 ahead.
  EXPECT_EQ(offset_of_question(1000, 1430, 60), (ClockOffset{-400, 30}));
  EXPECT_EQ(offset_of_question(5, 5, 0), (ClockOffset{0, 0}));
}

TEST(ClockOffset, OfAQuestionIsWithinItsErrorHoweverTheWaysDiffer) {
  for (const std::int64_t round_trip : {1, 2, 7, 60}) {
    for (std::int64_t there = 0; there <= round_trip; ++there) {
      const std::int64_t ahead = 400;
      const ClockOffset offset = offset_of_question(1000, 1000 + there - ahead, round_trip);
      EXPECT_LE(std::abs(offset.ahead_ns - ahead), offset.error_ns) << there << " of " << round_trip;
    }
  }
}

std::int64_t own_ahead(int rank) { return rank * 3'600'000'000'000LL - 7; }

thread_local int my_rank = 0;

/// Each rank's clock is another number of hours off.
std::int64_t read_clock() { return Clock::now().time_since_epoch().count() + own_ahead(my_rank); }

TEST(ClockOffset, IsMeasuredWithinItsError) {
  for (const int world_size : {1, 2, 3, 5}) {
    on_ranks(world_size, [](Communicator& communicator, int rank, int) {
      my_rank = rank;
      const ClockOffset offset = measure_clock_offset(communicator, read_clock, 11);
      const std::int64_t truth = own_ahead(rank) - own_ahead(0);
      EXPECT_LE(std::abs(offset.ahead_ns - truth), offset.error_ns) << "rank " << rank;
      if (rank == 0) {
        EXPECT_EQ(offset, ClockOffset{});
      } else {
        EXPECT_GT(offset.error_ns, 0);
      }
    });
  }
}

}  // namespace
}  // namespace lockstep
