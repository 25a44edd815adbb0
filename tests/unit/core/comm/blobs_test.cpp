// Byte strings whose sizes the others do not know.

#include "lockstep/core/comm/blobs.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/core/comm/collective_fixture.h"

namespace lockstep {
namespace {

using ::testing::IsEmpty;
using testing::on_ranks;

/// Rank's blob of one round: all byte values, of another length on each rank, some empty, some beyond every limit.
std::string blob_of(int rank, std::size_t round) {
  const std::vector<std::size_t> lengths = {0, 1, 50, 300, 5000, 70001, 700001};
  const std::size_t length = round == 0 ? 0 : lengths[(static_cast<std::size_t>(rank) * 3 + round) % lengths.size()];
  std::string blob(length, '\0');
  for (std::size_t i = 0; i < length; ++i) {
    blob[i] = static_cast<char>((i * 7 + static_cast<std::size_t>(rank) * 31 + round) % 256);
  }
  return blob;
}

constexpr std::size_t kRounds = 9;

class Blobs : public ::testing::TestWithParam<int> {};

TEST_P(Blobs, AllGather) {
  on_ranks(GetParam(), [](Communicator& communicator, int rank, int world) {
    for (std::size_t round = 0; round < kRounds; ++round) {
      const std::vector<std::string> blobs = all_gather_blobs(communicator, blob_of(rank, round));
      ASSERT_EQ(blobs.size(), static_cast<std::size_t>(world));
      for (int r = 0; r < world; ++r) ASSERT_TRUE(blobs[static_cast<std::size_t>(r)] == blob_of(r, round)) << round;
    }
  });
}

TEST_P(Blobs, GatherToEveryRoot) {
  on_ranks(GetParam(), [](Communicator& communicator, int rank, int world) {
    for (std::size_t round = 0; round < kRounds; ++round) {
      const int root = static_cast<int>(round) % world;
      const std::vector<std::string> blobs = gather_blobs(communicator, blob_of(rank, round), root);
      if (rank != root) {
        ASSERT_THAT(blobs, IsEmpty());
        continue;
      }
      ASSERT_EQ(blobs.size(), static_cast<std::size_t>(world));
      for (int r = 0; r < world; ++r) ASSERT_TRUE(blobs[static_cast<std::size_t>(r)] == blob_of(r, round)) << round;
    }
  });
}

TEST_P(Blobs, BroadcastFromEveryRoot) {
  on_ranks(GetParam(), [](Communicator& communicator, int rank, int world) {
    for (std::size_t round = 0; round < kRounds; ++round) {
      const int root = static_cast<int>(round) % world;
      const std::string blob = broadcast_blob(communicator, rank == root ? blob_of(rank, round) : "not used", root);
      ASSERT_TRUE(blob == blob_of(root, round)) << round;
    }
  });
}

TEST_P(Blobs, ScatterFromEveryRoot) {
  on_ranks(GetParam(), [](Communicator& communicator, int rank, int world) {
    for (std::size_t round = 0; round < kRounds; ++round) {
      const int root = static_cast<int>(round) % world;
      std::vector<std::string> blobs;
      for (int r = 0; rank == root && r < world; ++r) blobs.push_back(blob_of(r, round));
      ASSERT_TRUE(scatter_blobs(communicator, blobs, root) == blob_of(rank, round)) << round;
    }
  });
}

TEST_P(Blobs, SendAndReceiveRoundARing) {
  on_ranks(GetParam(), [](Communicator& communicator, int rank, int world) {
    if (world == 1) return;
    for (std::size_t round = 0; round < kRounds; ++round) {
      const int tag = static_cast<int>(round % 3);
      const int source = round % 2 == 0 ? (rank + world - 1) % world : kAnySource;
      if (rank == 0) send_blob(communicator, blob_of(rank, round), 1, tag);
      const auto [blob, from] = recv_blob(communicator, source, tag);
      ASSERT_EQ(from, (rank + world - 1) % world);
      ASSERT_TRUE(blob == blob_of(from, round)) << round;
      if (rank != 0) send_blob(communicator, blob_of(rank, round), (rank + 1) % world, tag);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Worlds, Blobs, ::testing::Values(1, 2, 3, 4, 5, 8));

// From any rank: the size and the bytes must come from the same one.
TEST(Blobs, FromAnyRankAreNeverMixed) {
  on_ranks(4, [](Communicator& communicator, int rank, int world) {
    constexpr std::size_t kEach = 10;
    if (rank != 1) {
      for (std::size_t k = 0; k < kEach; ++k) send_blob(communicator, blob_of(rank, k), 1, 2);
      return;
    }
    std::vector<std::size_t> next(static_cast<std::size_t>(world), 0);
    for (std::size_t k = 0; k < kEach * static_cast<std::size_t>(world - 1); ++k) {
      const auto [blob, from] = recv_blob(communicator, kAnySource, 2);
      const std::size_t round = next[static_cast<std::size_t>(from)]++;
      ASSERT_TRUE(blob == blob_of(from, round)) << "from " << from << " number " << round;
    }
  });
}

TEST(Blobs, ScatterNeedsOneForEveryRank) {
  on_ranks(2, [](Communicator& communicator, int rank, int) {
    if (rank == 0) {
      EXPECT_THROW(scatter_blobs(communicator, {"one"}, 0), UsageError);
      EXPECT_THROW(scatter_blobs(communicator, {"one", "two", "three"}, 0), UsageError);
      EXPECT_THROW(scatter_blobs(communicator, {}, 0), UsageError);
    }
    EXPECT_THROW(scatter_blobs(communicator, {"one", "two"}, 2), UsageError);
    EXPECT_THROW(broadcast_blob(communicator, "x", -1), UsageError);
    EXPECT_THROW(gather_blobs(communicator, "x", 2), UsageError);
    EXPECT_EQ(scatter_blobs(communicator, {"one", "two"}, 0), rank == 0 ? "one" : "two");
  });
}

TEST(Blobs, AmongOperationsInFlight) {
  on_ranks(3, [](Communicator& communicator, int rank, int world) {
    std::vector<std::int32_t> data(300000, rank + 1);
    Work work = communicator.all_reduce_async(data.data(), data.data(), data.size(), DType::kInt32);
    const auto blobs = all_gather_blobs(communicator, std::string(static_cast<std::size_t>(rank) * 1000, 'x'));
    work.wait();
    EXPECT_EQ(data, std::vector<std::int32_t>(300000, 6));
    for (int r = 0; r < world; ++r)
      EXPECT_EQ(blobs[static_cast<std::size_t>(r)].size(), static_cast<std::size_t>(r) * 1000);
  });
}

}  // namespace
}  // namespace lockstep
