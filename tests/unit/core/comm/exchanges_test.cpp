// broadcast, all_gather, gather, scatter and all_to_all: dtype x world x awkward count x in place or not x root x both
// kinds of memory, on exact inputs with ==.

#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/core/comm/collective_fixture.h"

namespace lockstep {
namespace {

using testing::Buffer;
using testing::Pattern;

class Exchanges : public testing::CollectiveTest {
 protected:
  /// body(dtype, count): all dtypes at small counts, one at large ones. Bytes are bytes.
  template <typename Body>
  void for_each_case(Body body) const {
    for (int d = 0; d < kDTypeCount; ++d) {
      const auto dtype = static_cast<DType>(d);
      std::vector<std::size_t> counts = small_counts();
      if (dtype == DType::kInt32) counts.insert(counts.end(), {20011, 70001, kLargestPart});
      for (const std::size_t count : counts) {
        body(dtype, count);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }
  /// Of the forms whose buffers hold a part for every rank.
  static constexpr std::size_t kLargestPart = 200003;

  /// Part `source` of `data` is the first `count` elements of that rank.
  static std::size_t count_wrong_parts(const std::byte* data, std::size_t count, DType dtype, int world) {
    std::size_t wrong = 0;
    for (int source = 0; source < world; ++source) {
      const std::byte* const part = data + static_cast<std::size_t>(source) * count * size_of(dtype);
      wrong += Pattern::of_rank(source, dtype).count_wrong(part, count);
    }
    return wrong;
  }
};

TEST_P(Exchanges, BroadcastFromEveryRoot) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    Buffer data(communicator, shared(), kLargest * 4);
    for_each_case([&](DType dtype, std::size_t count) {
      for (int root = 0; root < world; ++root) {
        if (count > 30000 && root != world - 1) continue;
        Pattern::of_rank(rank, dtype).write(data.prepare(count * size_of(dtype)), count, 3);
        communicator.broadcast(data.data(), count, dtype, root);
        ASSERT_EQ(Pattern::of_rank(root, dtype).count_wrong(data.data(), count, 3), 0u)
            << name_of(dtype) << " count " << count << " root " << root;
        ASSERT_TRUE(data.guards_hold()) << name_of(dtype) << " count " << count << " root " << root;
      }
    });
  });
}

TEST_P(Exchanges, AllGather) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const auto p = static_cast<std::size_t>(world);
    Buffer input(communicator, shared(), kLargestPart * 4);
    Buffer output(communicator, shared(), p * kLargestPart * 4);
    for_each_case([&](DType dtype, std::size_t count) {
      for (const bool in_place : {false, true}) {
        const std::size_t nbytes = count * size_of(dtype);
        output.prepare(p * nbytes);
        input.prepare(nbytes);
        std::byte* const own = in_place ? output.at(static_cast<std::size_t>(rank) * nbytes) : input.data();
        Pattern::of_rank(rank, dtype).write(own, count);
        communicator.all_gather(own, output.data(), count, dtype);
        ASSERT_EQ(count_wrong_parts(output.data(), count, dtype, world), 0u)
            << name_of(dtype) << " count " << count << " in place " << in_place;
        ASSERT_TRUE(output.guards_hold() && input.guards_hold()) << name_of(dtype) << " count " << count;
      }
    });
  });
}

TEST_P(Exchanges, GatherToEveryRoot) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const auto p = static_cast<std::size_t>(world);
    Buffer input(communicator, shared(), kLargestPart * 4);
    Buffer output(communicator, shared(), p * kLargestPart * 4);
    for_each_case([&](DType dtype, std::size_t count) {
      for (int turn = 0; turn < 2 * world; ++turn) {
        const int root = turn / 2;
        if (count > 30000 && root != world - 1) continue;
        const bool in_place = turn % 2 == 1 && rank == root;
        const std::size_t nbytes = count * size_of(dtype);
        output.prepare(p * nbytes);
        input.prepare(nbytes);
        std::byte* const own = in_place ? output.at(static_cast<std::size_t>(rank) * nbytes) : input.data();
        Pattern::of_rank(rank, dtype).write(own, count);
        const bool null = rank != root && turn % 2 == 1;
        communicator.gather(own, null ? nullptr : output.data(), count, dtype, root);
        if (rank != root) {
          ASSERT_TRUE(output.untouched()) << name_of(dtype) << " count " << count << " root " << root;
        } else {
          ASSERT_EQ(count_wrong_parts(output.data(), count, dtype, world), 0u)
              << name_of(dtype) << " count " << count << " root " << root << " in place " << in_place;
        }
        ASSERT_TRUE(output.guards_hold() && input.guards_hold()) << name_of(dtype) << " count " << count;
      }
    });
  });
}

TEST_P(Exchanges, ScatterFromEveryRoot) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const auto p = static_cast<std::size_t>(world);
    Buffer input(communicator, shared(), p * kLargestPart * 4);
    Buffer output(communicator, shared(), kLargestPart * 4);
    for_each_case([&](DType dtype, std::size_t count) {
      for (int root = 0; root < world; ++root) {
        if (count > 30000 && root != world - 1) continue;
        const std::size_t nbytes = count * size_of(dtype);
        const std::size_t own = static_cast<std::size_t>(rank) * count;
        Pattern::of_rank(rank, dtype).write(input.prepare(p * nbytes), p * count);
        output.prepare(nbytes);
        const bool null = rank != root && root % 2 == 0;
        communicator.scatter(null ? nullptr : input.data(), output.data(), count, dtype, root);
        ASSERT_EQ(Pattern::of_rank(root, dtype).count_wrong(output.data(), count, own), 0u)
            << name_of(dtype) << " count " << count << " root " << root;
        ASSERT_TRUE(output.guards_hold()) << name_of(dtype) << " count " << count << " root " << root;
        ASSERT_EQ(Pattern::of_rank(rank, dtype).count_wrong(input.data(), p * count), 0u) << "the input changed";
      }
    });
  });
}

TEST_P(Exchanges, AllToAll) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const auto p = static_cast<std::size_t>(world);
    Buffer input(communicator, shared(), p * kLargestPart * 4);
    Buffer output(communicator, shared(), p * kLargestPart * 4);
    for_each_case([&](DType dtype, std::size_t count) {
      const std::size_t nbytes = count * size_of(dtype);
      const std::size_t own = static_cast<std::size_t>(rank) * count;
      Pattern::of_rank(rank, dtype).write(input.prepare(p * nbytes), p * count);
      output.prepare(p * nbytes);
      communicator.all_to_all(input.data(), output.data(), count, dtype);
      for (int source = 0; source < world; ++source) {
        const std::byte* const part = output.at(static_cast<std::size_t>(source) * nbytes);
        ASSERT_EQ(Pattern::of_rank(source, dtype).count_wrong(part, count, own), 0u)
            << name_of(dtype) << " count " << count << " from " << source;
      }
      ASSERT_TRUE(output.guards_hold()) << name_of(dtype) << " count " << count;
      ASSERT_EQ(Pattern::of_rank(rank, dtype).count_wrong(input.data(), p * count), 0u) << "the input changed";
    });
  });
}

INSTANTIATE_TEST_SUITE_P(Worlds, Exchanges, testing::all_worlds(), testing::name_of_world);

TEST(Exchanges, WhatCannotWorkIsRefusedBeforeAnyByteMoves) {
  testing::on_ranks(2, [](Communicator& communicator, int rank, int world) {
    std::vector<float> data(100, static_cast<float>(rank));
    float* const x = data.data();
    constexpr DType kType = DType::kFloat32;
    EXPECT_THROW(communicator.all_to_all(x, x, 10, kType), UsageError) << "in place";
    const std::vector<std::size_t> tens = {10, 10};
    EXPECT_THROW(communicator.all_to_all(x, tens, x, tens, kType), UsageError) << "in place";
    for (const int root : {-1, world, 1000}) {
      EXPECT_THROW(communicator.broadcast(x, 10, kType, root), UsageError) << root;
      EXPECT_THROW(communicator.reduce(x, x, 10, kType, root), UsageError) << root;
      EXPECT_THROW(communicator.gather(x, x + 10, 10, kType, root), UsageError) << root;
      EXPECT_THROW(communicator.scatter(x, x + 50, 10, kType, root), UsageError) << root;
    }
    EXPECT_THROW(communicator.broadcast(nullptr, 10, kType, 0), UsageError);
    EXPECT_THROW(communicator.all_gather(x, nullptr, 10, kType), UsageError);
    EXPECT_THROW(communicator.all_to_all(nullptr, x, 10, kType), UsageError);
    EXPECT_THROW(communicator.reduce(nullptr, x, 10, kType, 0), UsageError);
    EXPECT_THROW(communicator.scatter(x, nullptr, 10, kType, 0), UsageError);
    EXPECT_THROW(communicator.gather(nullptr, x, 10, kType, 0), UsageError);
    if (rank == 0) {
      EXPECT_THROW(communicator.reduce(x, nullptr, 10, kType, 0), UsageError) << "the root needs an output";
      EXPECT_THROW(communicator.gather(x, nullptr, 10, kType, 0), UsageError) << "the root needs an output";
      EXPECT_THROW(communicator.scatter(nullptr, x, 10, kType, 0), UsageError) << "the root needs an input";
    }
    // Nothing of that took a number or moved a byte: the group is as new.
    EXPECT_EQ(data, std::vector<float>(100, static_cast<float>(rank)));
    communicator.broadcast(x, 100, kType, 1);
    EXPECT_EQ(data, std::vector<float>(100, 1.0f));
  });
}

}  // namespace
}  // namespace lockstep
