// Ranks that disagree on the operation, count, dtype, reduction, root or order: MismatchError on every rank, naming
// both sides.

#include <algorithm>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/core/comm/collective_fixture.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

/// What a call says, alike on all ranks but one.
struct Call {
  OpKind kind = OpKind::kAllReduce;
  std::size_t count = 100;
  DType dtype = DType::kFloat32;
  ReduceOp op = ReduceOp::kSum;
  int root = 0;
};

std::string text_of(const Call& call) {
  Collective collective;
  collective.kind = call.kind;
  collective.count = call.count;
  collective.dtype = call.dtype;
  collective.op = call.op;
  collective.root = call.root;
  collective.sequence = 1;
  return describe(collective);
}

constexpr std::size_t kLargest = 150000;
constexpr std::size_t kWorld = 3;

Work start(Communicator& c, const Call& call, void* input, void* output) {
  const std::size_t n = call.count;
  switch (call.kind) {
    case OpKind::kBarrier: return c.barrier_async();
    case OpKind::kBroadcast: return c.broadcast_async(output, n, call.dtype, call.root);
    case OpKind::kAllReduce: return c.all_reduce_async(input, output, n, call.dtype, call.op);
    case OpKind::kReduce: return c.reduce_async(input, output, n, call.dtype, call.root, call.op);
    case OpKind::kReduceScatter: return c.reduce_scatter_async(input, output, n, call.dtype, call.op);
    case OpKind::kAllGather: return c.all_gather_async(input, output, n, call.dtype);
    case OpKind::kGather: return c.gather_async(input, output, n, call.dtype, call.root);
    case OpKind::kScatter: return c.scatter_async(input, output, n, call.dtype, call.root);
    case OpKind::kAllToAll: return c.all_to_all_async(input, output, n, call.dtype);
    case OpKind::kAllocate:
    case OpKind::kSend:
    case OpKind::kRecv: break;
  }
  ADD_FAILURE() << "no collective";
  return {};
}

/// Two calls that one rank of three makes differently; `guilty` is the one.
void expect_mismatch(const Call& ours, const Call& theirs, int guilty) {
  SCOPED_TRACE(text_of(ours) + " and rank " + std::to_string(guilty) + " " + text_of(theirs));
  testing::on_ranks(kWorld, [&](Communicator& communicator, int rank, int) {
    const std::size_t most = std::max(ours.count, theirs.count);
    std::vector<std::byte> input(kWorld * most * 8 + 1);
    std::vector<std::byte> output(kWorld * most * 8 + 1);
    const Call& call = rank == guilty ? theirs : ours;
    try {
      // Ranks that need nobody else for their own part (a root that scatters) learn of it by the next barrier.
      Work work = start(communicator, call, input.data(), output.data());
      work.wait();
      communicator.barrier();
      ADD_FAILURE() << "rank " << rank << ": no error";
    } catch (const MismatchError& error) {
      EXPECT_THAT(error.what(), HasSubstr(text_of(ours))) << "rank " << rank;
      EXPECT_THAT(error.what(), HasSubstr(text_of(theirs))) << "rank " << rank;
      EXPECT_THAT(error.what(), HasSubstr("rank " + std::to_string(guilty))) << "rank " << rank;
    } catch (const std::exception& error) {
      ADD_FAILURE() << "rank " << rank << ": another error: " << error.what();
    }
    EXPECT_THROW(communicator.barrier(), AbortedError) << "rank " << rank;
  });
}

class Mismatch : public ::testing::TestWithParam<OpKind> {
 protected:
  static Call call(std::size_t count) {
    Call made;
    made.kind = GetParam();
    if (made.kind != OpKind::kBarrier) made.count = count;
    if (made.kind == OpKind::kBarrier) made.count = 0;
    return made;
  }
  // In one arrival line, in one copy, in many pieces.
  static std::vector<std::size_t> counts() {
    if (GetParam() == OpKind::kBarrier) return {0};
    return {2, 500, kLargest - 1};
  }
  /// Which rank differs must not matter: the first, a middle one, the last.
  static int guilty(std::size_t turn) { return static_cast<int>(turn % kWorld); }
};

TEST_P(Mismatch, InOperation) {
  std::size_t turn = 0;
  for (const std::size_t count : counts()) {
    for (const OpKind other :
         {OpKind::kBarrier, OpKind::kBroadcast, OpKind::kAllReduce, OpKind::kReduce, OpKind::kReduceScatter,
          OpKind::kAllGather, OpKind::kGather, OpKind::kScatter, OpKind::kAllToAll}) {
      if (other == GetParam() || (count > 1000 && turn % 3 != 0 && ++turn != 0)) continue;
      Call theirs = call(count);
      theirs.kind = other;
      if (other == OpKind::kBarrier) theirs = Call{OpKind::kBarrier, 0};
      expect_mismatch(call(count), theirs, guilty(++turn));
    }
  }
}

class MismatchOfBuffers : public Mismatch {};

TEST_P(MismatchOfBuffers, InCount) {
  std::size_t turn = 0;
  for (const std::size_t count : counts()) {
    // One more; none; on another path altogether.
    for (const std::size_t other : {count + 1, std::size_t{0}, count > 1000 ? std::size_t{3} : kLargest}) {
      Call theirs = call(count);
      theirs.count = other;
      expect_mismatch(call(count), theirs, guilty(++turn));
    }
  }
}

TEST_P(MismatchOfBuffers, InDType) {
  std::size_t turn = 0;
  for (const std::size_t count : counts()) {
    for (const DType other : {DType::kInt32, DType::kUInt8, DType::kFloat64}) {
      Call theirs = call(count);
      theirs.dtype = other;
      expect_mismatch(call(count), theirs, guilty(++turn));
    }
  }
}

class MismatchOfRootOrReduction : public Mismatch {};

TEST_P(MismatchOfRootOrReduction, IsTold) {
  std::size_t turn = 0;
  for (const std::size_t count : counts()) {
    if (has_root(GetParam())) {
      for (const int root : {1, 2}) {
        for (int who = 0; who < static_cast<int>(kWorld); ++who) {
          Call theirs = call(count);
          theirs.root = root;
          expect_mismatch(call(count), theirs, who);
        }
      }
    }
    if (reduces(GetParam())) {
      for (const ReduceOp op : {ReduceOp::kMax, ReduceOp::kAvg, ReduceOp::kPreMulSum}) {
        Call theirs = call(count);
        theirs.op = op;
        expect_mismatch(call(count), theirs, guilty(++turn));
      }
    }
  }
}

constexpr auto kName = [](const auto& test) { return std::string(name_of(test.param)); };

INSTANTIATE_TEST_SUITE_P(Kinds, Mismatch,
                         ::testing::Values(OpKind::kBarrier, OpKind::kBroadcast, OpKind::kAllReduce, OpKind::kReduce,
                                           OpKind::kReduceScatter, OpKind::kAllGather, OpKind::kGather,
                                           OpKind::kScatter, OpKind::kAllToAll),
                         kName);
INSTANTIATE_TEST_SUITE_P(Kinds, MismatchOfBuffers,
                         ::testing::Values(OpKind::kBroadcast, OpKind::kAllReduce, OpKind::kReduce,
                                           OpKind::kReduceScatter, OpKind::kAllGather, OpKind::kGather,
                                           OpKind::kScatter, OpKind::kAllToAll),
                         kName);
INSTANTIATE_TEST_SUITE_P(Kinds, MismatchOfRootOrReduction,
                         ::testing::Values(OpKind::kBroadcast, OpKind::kAllReduce, OpKind::kReduce,
                                           OpKind::kReduceScatter, OpKind::kGather, OpKind::kScatter),
                         kName);

TEST(Mismatch, InOrderNamesTheNumbersAtWhichRanksPart) {
  testing::on_ranks(3, [](Communicator& communicator, int rank, int) {
    std::vector<float> x(10);
    std::vector<float> y(30);
    const auto reduce = [&] { return communicator.all_reduce_async(x.data(), x.data(), 10, DType::kFloat32); };
    const auto gather = [&] { return communicator.all_gather_async(x.data(), y.data(), 10, DType::kFloat32); };
    communicator.barrier();
    try {
      Work first = rank == 2 ? gather() : reduce();
      Work second = rank == 2 ? reduce() : gather();
      first.wait();
      second.wait();
      ADD_FAILURE() << "no error";
    } catch (const MismatchError& error) {
      EXPECT_THAT(error.what(), HasSubstr("all_reduce #2"));
      EXPECT_THAT(error.what(), HasSubstr("all_gather #2"));
      EXPECT_THAT(error.what(), HasSubstr("rank 2"));
    }
  });
}

TEST(Mismatch, OfAllocations) {
  testing::on_ranks(3, [](Communicator& communicator, int rank, int) {
    try {
      const BackendMemory memory = communicator.allocate(rank == 1 ? 8192 : 4096);
      ADD_FAILURE() << "no error";
    } catch (const MismatchError& error) {
      EXPECT_THAT(error.what(), HasSubstr("allocate #1 (4096 bytes)"));
      EXPECT_THAT(error.what(), HasSubstr("allocate #1 (8192 bytes)"));
      EXPECT_THAT(error.what(), HasSubstr("rank 1"));
    }
  });
}

// Two ranks whose calls agree finish nothing behind the back of the one that disagrees later: what was in flight before
// the disagreement is complete and right.
TEST(Mismatch, WhatCameBeforeIsComplete) {
  testing::on_ranks(3, [](Communicator& communicator, int rank, int world) {
    std::vector<std::int32_t> before(70001);
    const auto& mine = testing::Pattern::of_rank(rank, DType::kInt32);
    mine.write(before.data(), before.size());
    Work good = communicator.all_reduce_async(before.data(), before.data(), before.size(), DType::kInt32);
    good.wait();
    std::int32_t x = 0;
    EXPECT_THROW(communicator.all_reduce(&x, &x, 1, rank == 0 ? DType::kInt32 : DType::kFloat32), MismatchError);
    EXPECT_EQ(testing::Pattern::of_result(world, DType::kInt32).count_wrong(before.data(), before.size()), 0u);
  });
}

}  // namespace
}  // namespace lockstep
