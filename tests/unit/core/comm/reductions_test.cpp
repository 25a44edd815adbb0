// all_reduce, reduce and reduce_scatter: every dtype x reduction x world x awkward count x in place or not x root x
// both kinds of memory, on exact inputs with ==.

#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/core/comm/collective_fixture.h"

namespace lockstep {
namespace {

using testing::Buffer;
using testing::for_each_reduction;
using testing::goes_large;
using testing::Pattern;
using testing::reduction_of;

struct Case {
  DType dtype;
  ReduceOp op;
  std::size_t count;
  bool in_place;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << name_of(c.dtype) << ' ' << name_of(c.op) << " count " << c.count << " in place " << c.in_place;
}

class Reductions : public testing::CollectiveTest {
 protected:
  template <typename Element>
  float sum_in_order(int world, Element element) const;

  /// body(case, this rank's contribution, the result).
  template <typename Body>
  void for_each_case(int rank, int world, Body body) const {
    for_each_reduction([&](DType dtype, ReduceOp op) {
      const Pattern& mine = Pattern::of_rank(rank, dtype, op);
      const Pattern& result = Pattern::of_result(world, dtype, op);
      std::vector<std::size_t> counts = small_counts();
      if (goes_large(dtype, op)) {
        for (const std::size_t count : large_counts()) counts.push_back(count);
      }
      for (const std::size_t count : counts) {
        for (const bool in_place : {false, true}) body(Case{dtype, op, count, in_place}, mine, result);
        if (::testing::Test::HasFatalFailure()) return;
      }
    });
  }
};

TEST_P(Reductions, AllReduce) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    Buffer input(communicator, shared(), kLargest * 4);
    Buffer output(communicator, shared(), kLargest * 4);
    for_each_case(rank, world, [&](const Case& c, const Pattern& mine, const Pattern& result) {
      const std::size_t nbytes = c.count * size_of(c.dtype);
      mine.write(input.prepare(nbytes), c.count);
      Buffer& target = c.in_place ? input : output;
      if (!c.in_place) output.prepare(nbytes);
      communicator.all_reduce(input.data(), target.data(), c.count, c.dtype, reduction_of(c.op, rank));
      ASSERT_EQ(result.count_wrong(target.data(), c.count), 0u) << c;
      ASSERT_TRUE(target.guards_hold()) << c;
      ASSERT_TRUE(c.in_place || mine.count_wrong(input.data(), c.count) == 0) << "the input changed: " << c;
    });
  });
}

TEST_P(Reductions, ReduceToEveryRoot) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    Buffer input(communicator, shared(), kLargest * 4);
    Buffer output(communicator, shared(), kLargest * 4);
    int turn = 0;
    for_each_case(rank, world, [&](const Case& c, const Pattern& mine, const Pattern& result) {
      // Every root where the pair stands for the others; one after the other elsewhere.
      const bool every = goes_large(c.dtype, c.op) && c.count < 100000;
      for (int k = 0; k < (every ? world : 1); ++k) {
        const int root = ++turn % world;
        const std::size_t nbytes = c.count * size_of(c.dtype);
        mine.write(input.prepare(nbytes), c.count);
        output.prepare(nbytes);
        const bool null = rank != root && turn % 2 == 0;
        void* const result_at = c.in_place ? input.data() : (null ? nullptr : output.data());
        communicator.reduce(input.data(), result_at, c.count, c.dtype, root, reduction_of(c.op, rank));
        Buffer& target = c.in_place ? input : output;
        if (rank == root) {
          ASSERT_EQ(result.count_wrong(target.data(), c.count), 0u) << c << " root " << root;
          ASSERT_TRUE(target.guards_hold()) << c << " root " << root;
        } else {
          ASSERT_TRUE(output.untouched()) << c << " root " << root;
        }
        if (rank != root || !c.in_place) {
          ASSERT_EQ(mine.count_wrong(input.data(), c.count), 0u) << "the input changed: " << c << " root " << root;
        }
      }
    });
  });
}

TEST_P(Reductions, ReduceScatter) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const auto p = static_cast<std::size_t>(world);
    constexpr std::size_t kLargestChunk = kLargest / 2;
    Buffer input(communicator, shared(), p * kLargestChunk * 4);
    Buffer output(communicator, shared(), kLargestChunk * 4);
    for_each_case(rank, world, [&](const Case& c, const Pattern& mine, const Pattern& result) {
      if (c.count > kLargestChunk) return;
      const std::size_t own = static_cast<std::size_t>(rank) * c.count;
      mine.write(input.prepare(p * c.count * size_of(c.dtype)), p * c.count);
      output.prepare(c.count * size_of(c.dtype));
      std::byte* const chunk = c.in_place ? input.at(own * size_of(c.dtype)) : output.data();
      communicator.reduce_scatter(input.data(), chunk, c.count, c.dtype, reduction_of(c.op, rank));
      ASSERT_EQ(result.count_wrong(chunk, c.count, own), 0u) << c;
      ASSERT_TRUE(input.guards_hold() && output.guards_hold()) << c;
      // In place, only the own chunk is an output.
      const std::size_t after = own + c.count;
      ASSERT_EQ(mine.count_wrong(input.data(), own), 0u) << "the input changed: " << c;
      ASSERT_EQ(mine.count_wrong(input.at(after * size_of(c.dtype)), p * c.count - after, after), 0u)
          << "the input changed: " << c;
    });
  });
}

// The order of additions is part of the contract: floating sums that depend on it come out alike on every rank, from
// every operation that adds, and as adding in rank order gives them.
/// In rank order; over several hosts inside each, then over the hosts.
template <typename Element>
float Reductions::sum_in_order(int world, Element element) const {
  std::vector<int> host_of = GetParam().host_of;
  if (host_of.empty()) host_of.assign(static_cast<std::size_t>(world), 0);
  float sum = 0;
  for (int host = 0; host <= *std::max_element(host_of.begin(), host_of.end()); ++host) {
    float of_host = 0;  // Adding to zero changes no bit of what is positive.
    for (int rank = 0; rank < world; ++rank) {
      if (host_of[static_cast<std::size_t>(rank)] == host) of_host += element(rank);
    }
    sum += of_host;
  }
  return sum;
}

TEST_P(Reductions, SumsAreBitIdenticalWhicheverOperationAdds) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const auto p = static_cast<std::size_t>(world);
    const auto element = [](int of, std::size_t i) {
      return 1.0f / static_cast<float>(1 + (i * 31 + static_cast<std::size_t>(of) * 17) % 97);
    };
    for (const std::size_t chunk : {std::size_t{1}, std::size_t{5}, std::size_t{301}, std::size_t{30011}}) {
      const std::size_t count = p * chunk;
      Buffer input(communicator, shared(), count * 4);
      Buffer whole(communicator, shared(), count * 4);
      Buffer at_root(communicator, shared(), count * 4);
      Buffer part(communicator, shared(), chunk * 4);
      for (std::size_t i = 0; i < count; ++i) testing::put(input.data(), i, DType::kFloat32, element(rank, i));
      communicator.all_reduce(input.data(), whole.data(), count, DType::kFloat32);
      communicator.reduce(input.data(), at_root.data(), count, DType::kFloat32, world - 1);
      communicator.reduce_scatter(input.data(), part.data(), chunk, DType::kFloat32);
      for (std::size_t i = 0; i < count; ++i) {
        const float want = sum_in_order(world, [&](int peer) { return element(peer, i); });
        ASSERT_EQ(testing::get(whole.data(), i, DType::kFloat32), want) << "chunk " << chunk << " element " << i;
        const std::size_t own = static_cast<std::size_t>(rank) * chunk;
        const bool is_own = i >= own && i < own + chunk;
        ASSERT_TRUE(rank != world - 1 || testing::get(at_root.data(), i, DType::kFloat32) == want) << i;
        ASSERT_TRUE(!is_own || testing::get(part.data(), i - own, DType::kFloat32) == want) << i;
      }
    }
  });
}

TEST_P(Reductions, BuffersNeedNoAlignmentBeyondTheElement) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    Buffer input(communicator, shared(), 30011 * 8);
    Buffer output(communicator, shared(), 30011 * 8);
    for (const DType dtype : {DType::kFloat16, DType::kFloat32, DType::kInt64, DType::kUInt8}) {
      const Pattern& mine = Pattern::of_rank(rank, dtype);
      const Pattern& result = Pattern::of_result(world, dtype);
      for (const std::size_t count : {std::size_t{7}, std::size_t{999}, std::size_t{30000}}) {
        // Each rank's buffers lie differently in their cache lines.
        const std::size_t shift = static_cast<std::size_t>(1 + rank) * size_of(dtype);
        mine.write(input.at(shift), count);
        communicator.all_reduce(input.at(shift), output.at(size_of(dtype)), count, dtype);
        ASSERT_EQ(result.count_wrong(output.at(size_of(dtype)), count), 0u) << name_of(dtype) << ' ' << count;
        communicator.all_reduce(input.at(shift), input.at(shift), count, dtype);
        ASSERT_EQ(result.count_wrong(input.at(shift), count), 0u) << name_of(dtype) << ' ' << count << " in place";
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Worlds, Reductions, testing::all_worlds(), testing::name_of_world);

// A rank's factor is its own: ranks that say different ones agree on the operation.
TEST(PreMulSum, IsForFloatingDtypesOnly) {
  testing::on_ranks(2, [](Communicator& communicator, int rank, int) {
    std::int32_t x = 1;
    EXPECT_THROW(communicator.all_reduce(&x, &x, 1, DType::kInt32, premul_sum(2)), UsageError);
    EXPECT_THROW(communicator.reduce(&x, &x, 1, DType::kBool, 0, premul_sum(2)), UsageError);
    double y = 3;
    communicator.all_reduce(&y, &y, 1, DType::kFloat64, premul_sum(rank == 0 ? 0.25 : 8));
    EXPECT_EQ(y, 24.75);
  });
}

TEST(PreMulSum, OfAWorldOfOneIsTheProduct) {
  testing::on_ranks(1, [](Communicator& communicator, int, int) {
    for (const std::size_t count : {std::size_t{1}, std::size_t{100003}}) {
      std::vector<float> in(count, 3.0f);
      std::vector<float> out(count);
      communicator.all_reduce(in.data(), out.data(), count, DType::kFloat32, premul_sum(0.5));
      EXPECT_EQ(out, std::vector<float>(count, 1.5f));
      communicator.reduce(in.data(), in.data(), count, DType::kFloat32, 0, premul_sum(-4));
      EXPECT_EQ(in, std::vector<float>(count, -12.0f));
      communicator.reduce_scatter(in.data(), out.data(), count, DType::kFloat32, premul_sum(2));
      EXPECT_EQ(out, std::vector<float>(count, -24.0f));
    }
  });
}

}  // namespace
}  // namespace lockstep
