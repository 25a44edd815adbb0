// The coalesced forms: many buffers, one operation. Each buffer must end as the plain operation would leave it.

#include <array>
#include <memory>
#include <random>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/core/comm/collective_fixture.h"

namespace lockstep {
namespace {

using testing::Pattern;
using ::testing::PrintToString;
using testing::reduction_of;

using CountList = std::vector<std::size_t>;

/// Lists of buffers: none, one, empty ones, many small ones, large ones among them, large ones alone.
std::vector<CountList> lists() {
  std::vector<CountList> all = {{}, {0}, {1}, {5003}, {0, 0, 0}, {1, 0, 2, 0, 3}, {7, 1031, 1, 20011, 3, 90001, 0, 5}};
  all.push_back(CountList(300, 3));
  all.push_back({150001, 1, 150001});
  std::mt19937 random(5);
  for (const std::size_t limit : {std::size_t{40}, std::size_t{5000}}) {
    CountList list(60);
    for (std::size_t& count : list) count = random() % limit;
    all.push_back(list);
  }
  return all;
}

/// Buffers one after the other with a gap between them; in place shares each one's output and input as the plain
/// operation does.
class Coalesced : public testing::CollectiveTest {
 protected:
  static constexpr std::array<DType, 3> kDTypes = {DType::kFloat32, DType::kBFloat16, DType::kUInt8};

  /// One region for all inputs and one for all outputs, so that backend memory takes two allocations.
  struct Regions {
    testing::Buffer input;
    testing::Buffer output;
  };
  static constexpr std::size_t kGap = 24;
  static std::size_t region_nbytes(std::size_t factor) {
    std::size_t largest = 0;
    for (const CountList& list : lists())
      largest = std::max(largest, testing::sum_of(list) * 4 + list.size() * 2 * kGap);
    return largest * factor;
  }
  /// Pairs with `in` and `out` times each count at the two sides.
  static std::vector<BufferPair> lay_out(Regions& regions, const CountList& counts, DType dtype, std::size_t in,
                                         std::size_t out) {
    std::vector<BufferPair> pairs;
    std::size_t input_at = 0;
    std::size_t output_at = 0;
    const auto step = [&](std::size_t elements) { return (elements * size_of(dtype) + kGap + 7) / 8 * 8; };
    regions.input.prepare(in * testing::sum_of(counts) * size_of(dtype) + counts.size() * 2 * kGap);
    regions.output.prepare(out * testing::sum_of(counts) * size_of(dtype) + counts.size() * 2 * kGap);
    for (const std::size_t count : counts) {
      pairs.push_back({regions.input.at(input_at), regions.output.at(output_at), count});
      input_at += step(in * count);
      output_at += step(out * count);
    }
    return pairs;
  }
  /// Bytes behind each output that must not change.
  static bool gaps_hold(const std::vector<BufferPair>& pairs, DType dtype, std::size_t out) {
    for (const BufferPair& pair : pairs) {
      const auto* const end = static_cast<const std::byte*>(pair.output) + out * pair.count * size_of(dtype);
      for (std::size_t i = 0; i < kGap; ++i) {
        if (end[i] != std::byte{0xA5}) return false;
      }
    }
    return true;
  }
  /// body(pairs, counts, dtype, regions) for each list and dtype.
  template <typename Body>
  void for_each_list(Communicator& communicator, std::size_t in, std::size_t out, Body body) const {
    Regions regions{testing::Buffer(communicator, shared(), region_nbytes(in)),
                    testing::Buffer(communicator, shared(), region_nbytes(out))};
    for (const CountList& counts : lists()) {
      for (const DType dtype : kDTypes) {
        body(lay_out(regions, counts, dtype, in, out), dtype);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }
};

/// A buffer's contents begin at another element in each, so that mixed up buffers show.
std::size_t offset_of(std::size_t index) { return index * 13; }

TEST_P(Coalesced, AllReduce) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    std::size_t turn = 0;
    for_each_list(communicator, 1, 1, [&](std::vector<BufferPair> pairs, DType dtype) {
      const std::array<ReduceOp, 4> ops = {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kAvg, ReduceOp::kPreMulSum};
      const ReduceOp op = ops[++turn % (is_floating(dtype) ? 4 : 2)];
      const bool in_place = turn % 2 == 0;
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        if (in_place) pairs[i].input = pairs[i].output;
        Pattern::of_rank(rank, dtype, op).write(const_cast<void*>(pairs[i].input), pairs[i].count, offset_of(i));
      }
      communicator.all_reduce_coalesced(pairs, dtype, reduction_of(op, rank));
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        const Pattern& result = Pattern::of_result(world, dtype, op);
        ASSERT_EQ(result.count_wrong(pairs[i].output, pairs[i].count, offset_of(i)), 0u)
            << "buffer " << i << " of " << pairs.size() << ", " << pairs[i].count << ' ' << name_of(dtype) << ' '
            << name_of(op) << " in place " << in_place;
      }
      ASSERT_TRUE(gaps_hold(pairs, dtype, 1));
    });
  });
}

TEST_P(Coalesced, BroadcastFromEveryRoot) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    int turn = 0;
    for_each_list(communicator, 1, 1, [&](std::vector<BufferPair> pairs, DType dtype) {
      const int root = ++turn % world;
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        if (turn % 2 == 0) pairs[i].input = pairs[i].output;
        Pattern::of_rank(rank, dtype).write(const_cast<void*>(pairs[i].input), pairs[i].count, offset_of(i));
        Pattern::of_rank(rank, dtype).write(pairs[i].output, pairs[i].count, offset_of(i));
      }
      communicator.broadcast_coalesced(pairs, dtype, root);
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        const Pattern& theirs = Pattern::of_rank(root, dtype);
        ASSERT_EQ(theirs.count_wrong(pairs[i].output, pairs[i].count, offset_of(i)), 0u)
            << "buffer " << i << " of " << pairs.size() << ", " << pairs[i].count << ' ' << name_of(dtype) << " root "
            << root;
      }
      ASSERT_TRUE(gaps_hold(pairs, dtype, 1));
    });
  });
}

TEST_P(Coalesced, ReduceScatter) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const auto p = static_cast<std::size_t>(world);
    std::size_t turn = 0;
    for_each_list(communicator, p, 1, [&](std::vector<BufferPair> pairs, DType dtype) {
      const ReduceOp op = ++turn % 2 == 0 ? ReduceOp::kSum : ReduceOp::kMin;
      const bool in_place = turn % 4 >= 2;
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        BufferPair& pair = pairs[i];
        Pattern::of_rank(rank, dtype, op).write(const_cast<void*>(pair.input), p * pair.count, offset_of(i));
        const std::size_t own = static_cast<std::size_t>(rank) * pair.count * size_of(dtype);
        if (in_place) pair.output = static_cast<std::byte*>(const_cast<void*>(pair.input)) + own;
      }
      communicator.reduce_scatter_coalesced(pairs, dtype, op);
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        const Pattern& result = Pattern::of_result(world, dtype, op);
        const std::size_t begin = offset_of(i) + static_cast<std::size_t>(rank) * pairs[i].count;
        ASSERT_EQ(result.count_wrong(pairs[i].output, pairs[i].count, begin), 0u)
            << "buffer " << i << " of " << pairs.size() << ", " << pairs[i].count << ' ' << name_of(dtype)
            << " in place " << in_place;
      }
      ASSERT_TRUE(in_place || gaps_hold(pairs, dtype, 1));
    });
  });
}

TEST_P(Coalesced, AllGather) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const auto p = static_cast<std::size_t>(world);
    std::size_t turn = 0;
    for_each_list(communicator, 1, p, [&](std::vector<BufferPair> pairs, DType dtype) {
      const bool in_place = ++turn % 2 == 0;
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        const std::size_t own = static_cast<std::size_t>(rank) * pairs[i].count * size_of(dtype);
        if (in_place) pairs[i].input = static_cast<std::byte*>(pairs[i].output) + own;
        Pattern::of_rank(rank, dtype).write(const_cast<void*>(pairs[i].input), pairs[i].count, offset_of(i));
      }
      communicator.all_gather_coalesced(pairs, dtype);
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        for (std::size_t source = 0; source < p; ++source) {
          const auto* const part =
              static_cast<const std::byte*>(pairs[i].output) + source * pairs[i].count * size_of(dtype);
          const Pattern& theirs = Pattern::of_rank(static_cast<int>(source), dtype);
          ASSERT_EQ(theirs.count_wrong(part, pairs[i].count, offset_of(i)), 0u)
              << "buffer " << i << " of " << pairs.size() << ", " << pairs[i].count << ' ' << name_of(dtype) << " from "
              << source << " in place " << in_place;
        }
      }
      ASSERT_TRUE(gaps_hold(pairs, dtype, p));
    });
  });
}

// Several coalesced operations in flight among plain ones; the list of buffers goes at once.
TEST_P(Coalesced, InFlightTheListMayGo) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const Pattern& mine = Pattern::of_rank(rank, DType::kFloat32);
    constexpr std::size_t kRounds = 12;
    std::vector<std::vector<float>> buffers;
    std::vector<Work> works;
    for (std::size_t round = 0; round < kRounds; ++round) {
      std::vector<BufferPair> pairs;
      for (std::size_t i = 0; i < 20; ++i) {
        auto& buffer = buffers.emplace_back((round * 20 + i) * 97 % 6000);
        mine.write(buffer.data(), buffer.size(), i);
        pairs.push_back({buffer.data(), buffer.data(), buffer.size()});
      }
      works.push_back(round % 2 == 0 ? communicator.all_reduce_coalesced_async(pairs, DType::kFloat32)
                                     : communicator.broadcast_coalesced_async(pairs, DType::kFloat32, world - 1));
      for (BufferPair& pair : pairs) pair = {nullptr, nullptr, 123456789};
      works.push_back(communicator.barrier_async());
    }
    for (Work& work : works) work.wait();
    for (std::size_t k = 0; k < buffers.size(); ++k) {
      const Pattern& want =
          k / 20 % 2 == 0 ? Pattern::of_result(world, DType::kFloat32) : Pattern::of_rank(world - 1, DType::kFloat32);
      ASSERT_EQ(want.count_wrong(buffers[k].data(), buffers[k].size(), k % 20), 0u) << "buffer " << k;
    }
  });
}

// Packing copies: what is in flight in the buffers must be complete before it, what comes after must see it unpacked.
TEST_P(Coalesced, KeepTheOrderOfOperationsOnTheirBuffers) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    for (const std::size_t count : {std::size_t{5}, std::size_t{900}, std::size_t{70001}}) {
      testing::Buffer region(communicator, shared(), 3 * count * 4);
      std::vector<BufferPair> pairs;
      for (std::size_t i = 0; i < 3; ++i) {
        std::byte* const data = region.at(i * count * 4);
        Pattern::of_rank(rank, DType::kInt32).write(data, count, i);
        communicator.all_reduce_async(data, data, count, DType::kInt32);  // the sum
        pairs.push_back({data, data, count});
      }
      communicator.all_reduce_coalesced_async(pairs, DType::kInt32);            // p times the sum
      communicator.broadcast_coalesced_async(pairs, DType::kInt32, world - 1);  // as it is
      std::vector<Work> works;
      for (const BufferPair& pair : pairs) {
        works.push_back(communicator.all_reduce_async(pair.output, pair.output, count, DType::kInt32));
      }
      for (Work& work : works) work.wait();
      const Pattern want(DType::kInt32, [&](std::size_t i) {
        return world * world * testing::expected(i, world, ReduceOp::kSum, DType::kInt32);
      });
      for (std::size_t i = 0; i < 3; ++i) {
        ASSERT_EQ(want.count_wrong(pairs[i].output, count, i), 0u) << count << " in buffer " << i;
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Worlds, Coalesced, testing::all_worlds(), testing::name_of_world);

TEST(Coalesced, SmallBuffersAreBitIdenticalToOneAtATime) {
  testing::on_ranks(3, [](Communicator& communicator, int rank, int) {
    constexpr std::size_t kBuffers = 40;
    std::vector<std::vector<float>> one(kBuffers);
    for (std::size_t i = 0; i < kBuffers; ++i) {
      for (std::size_t k = 0; k < i * 37; ++k) {
        one[i].push_back(1.0f / static_cast<float>(1 + (k * 31 + static_cast<std::size_t>(rank) * 17 + i) % 97));
      }
    }
    std::vector<std::vector<float>> packed = one;
    std::vector<BufferPair> pairs;
    for (auto& buffer : packed) pairs.push_back({buffer.data(), buffer.data(), buffer.size()});
    communicator.all_reduce_coalesced(pairs, DType::kFloat32, ReduceOp::kAvg);
    for (auto& buffer : one) {
      communicator.all_reduce(buffer.data(), buffer.data(), buffer.size(), DType::kFloat32, ReduceOp::kAvg);
    }
    EXPECT_EQ(packed, one);
  });
}

TEST(Coalesced, ANullBufferIsRefused) {
  testing::on_ranks(2, [](Communicator& communicator, int, int) {
    float x = 1;
    const std::vector<BufferPair> pairs = {{&x, &x, 1}, {nullptr, nullptr, 3}};
    EXPECT_THROW(communicator.all_reduce_coalesced(pairs, DType::kFloat32), UsageError);
    EXPECT_THROW(communicator.broadcast_coalesced(pairs, DType::kFloat32, 0), UsageError);
    EXPECT_THROW(communicator.broadcast_coalesced({pairs.data(), 1}, DType::kFloat32, 2), UsageError);
    const std::vector<BufferPair> empty = {{nullptr, nullptr, 0}, {&x, &x, 1}};
    communicator.all_reduce_coalesced(empty, DType::kFloat32);
    EXPECT_EQ(x, 2.0f);
  });
}

TEST(Coalesced, ListsThatDifferAreAMismatch) {
  const std::vector<std::pair<CountList, CountList>> cases = {
      {{3, 4}, {3, 5}},            // another total
      {{3, 4, 5}, {3, 4}},         // another number of buffers
      {{100000, 4}, {100000, 5}},  // beside a buffer that travels alone
      {{100000, 4}, {4, 100001}}, {{}, {1}},
  };
  for (const auto& [ours, theirs] : cases) {
    testing::on_ranks(3, [&, one = ours, other = theirs](Communicator& communicator, int rank, int) {
      const CountList& counts = rank == 1 ? other : one;
      std::vector<std::vector<float>> buffers;
      std::vector<BufferPair> pairs;
      for (const std::size_t count : counts) buffers.emplace_back(count);
      for (auto& buffer : buffers) pairs.push_back({buffer.data(), buffer.data(), buffer.size()});
      try {
        communicator.all_reduce_coalesced(pairs, DType::kFloat32);
        communicator.barrier();  // A rank without buffers calls nothing: the others learn of it here.
        ADD_FAILURE() << "no error: " << PrintToString(one) << ' ' << PrintToString(other);
      } catch (const MismatchError& error) {
        EXPECT_THAT(error.what(), ::testing::HasSubstr("rank 1"));
      }
      EXPECT_THROW(communicator.barrier(), AbortedError);
    });
  }
}

}  // namespace
}  // namespace lockstep
