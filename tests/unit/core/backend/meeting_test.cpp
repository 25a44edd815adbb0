// How ranks tell each other a value each, and who is told what where they do not fit.

#include "lockstep/core/backend/meeting.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "tests/support/ranks.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

Meeting meeting_of(int rank, int world_size) {
  return {"dp", rank, world_size, Deadline::after(std::chrono::seconds(30)), {}};
}

TEST(Meeting, EveryoneHearsEveryValue) {
  const auto store = make_memory_store();
  const std::vector<std::string> values = {"a b", "", "  three", "v1 2 x"};
  support::run_ranks(4, [&](int rank) {
    EXPECT_EQ(exchange_values(*store, meeting_of(rank, 4), "key", values[static_cast<std::size_t>(rank)]), values);
  });
}

// Rank 1 of another build: whichever of the two looks sees it, before anything else of it is read.
TEST(Meeting, AnotherProtocolIsNamedBesideOurs) {
  for (const int rank : {0, 1}) {
    const auto store = make_memory_store();
    store->set(rank == 0 ? "key/1" : "key/0", "v7 something else");
    try {
      exchange_values(*store, meeting_of(rank, 2), "key", "value");
      ADD_FAILURE() << "no error";
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("group dp: this rank speaks protocol v1"), HasSubstr("speaks 'v7'"),
                                      HasSubstr("rank " + std::to_string(1 - rank))));
    }
  }
}

TEST(Meeting, AnotherWorldSizeIsNamedBesideOurs) {
  const auto store = make_memory_store();
  store->set("key/1", std::string(kProtocol) + " 3 value");
  try {
    exchange_values(*store, meeting_of(0, 2), "key", "value");
    ADD_FAILURE() << "no error";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("world size of 2, rank 1 one of 3")));
  }
}

}  // namespace
}  // namespace lockstep
