#include <gtest/gtest.h>

#include "lockstep/core/backend/shm/layout.h"
#include "lockstep/core/backend/shm/plan.h"
#include "lockstep/core/backend/shm/waiting.h"

namespace lockstep::shm {
namespace {

Collective make(OpKind kind, std::size_t count, DType dtype = DType::kFloat32) {
  Collective collective;
  collective.kind = kind;
  collective.count = count;
  collective.dtype = dtype;
  return collective;
}

constexpr MemoryKind kUser{false, false};
constexpr MemoryKind kShared{true, true};

TEST(ShmPlan, NothingMovesWithoutElements) {
  for (const OpKind kind : {OpKind::kBroadcast, OpKind::kAllReduce, OpKind::kReduceScatter, OpKind::kAllGather}) {
    EXPECT_EQ(plan_for(make(kind, 0), 4, kShared, {}).path, Path::kSync);
  }
  EXPECT_EQ(plan_for(make(OpKind::kBarrier, 0), 4, kUser, {}).path, Path::kSync);
  EXPECT_EQ(plan_for(make(OpKind::kAllocate, 1 << 20), 4, kUser, {}).ticks, 1u);
}

TEST(ShmPlan, PathFollowsSizeAndMemory) {
  EXPECT_EQ(plan_for(make(OpKind::kAllReduce, 1), 2, kUser, {}).path, Path::kInline);
  EXPECT_EQ(plan_for(make(OpKind::kAllReduce, 22), 2, kUser, {}).path, Path::kInline);
  EXPECT_EQ(plan_for(make(OpKind::kAllReduce, 23), 2, kUser, {}).path, Path::kFlat);
  EXPECT_EQ(plan_for(make(OpKind::kAllReduce, 1 << 20), 2, kUser, {}).path, Path::kStaged);
  EXPECT_EQ(plan_for(make(OpKind::kAllReduce, 1 << 20), 2, kShared, {}).path, Path::kDirect);
  EXPECT_EQ(plan_for(make(OpKind::kAllReduce, 1 << 20), 2, {true, false}, {}).path, Path::kStaged);
  EXPECT_EQ(plan_for(make(OpKind::kAllGather, 1 << 20), 2, {true, false}, {}).path, Path::kDirect);
}

TEST(ShmPlan, OnlyReductionsIntoPeersWaitForThem) {
  EXPECT_TRUE(plan_for(make(OpKind::kAllReduce, 1 << 20), 2, kShared, {}).wait_worked);
  EXPECT_TRUE(plan_for(make(OpKind::kAllReduce, 1 << 20), 2, kUser, {}).wait_worked);
  EXPECT_FALSE(plan_for(make(OpKind::kReduceScatter, 1 << 20), 2, kUser, {}).wait_worked);
  EXPECT_FALSE(plan_for(make(OpKind::kAllReduce, 64), 2, kUser, {}).wait_worked);
}

TEST(ShmPlan, PiecesCoverEverythingAndFitTheSlot) {
  for (const OpKind kind : {OpKind::kBroadcast, OpKind::kAllReduce, OpKind::kReduceScatter, OpKind::kAllGather}) {
    for (const DType dtype : {DType::kInt8, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
      for (const int world : {2, 3, 5, 8, 64}) {
        for (const std::size_t count : {100003u, 262144u, 262145u, 1048577u}) {
          const Plan plan = plan_for(make(kind, count, dtype), world, kUser, {});
          if (plan.path != Path::kStaged) continue;
          EXPECT_GE(plan.ticks * plan.piece, count);
          EXPECT_LT((plan.ticks - 1) * plan.piece, count);
          const std::size_t parts = kind == OpKind::kReduceScatter ? static_cast<std::size_t>(world) : 1;
          EXPECT_LE(parts * plan.piece * size_of(dtype), kSegmentBytes);
        }
      }
    }
  }
}

TEST(ShmPlan, SignatureTellsCallsApart) {
  Collective a = make(OpKind::kAllReduce, 5);
  Collective b = a;
  b.op = ReduceOp::kMax;
  Collective c = a;
  c.dtype = DType::kInt32;
  Collective d = make(OpKind::kBroadcast, 5);
  d.root = 3;
  const auto of = [](const Collective& collective) { return signature_of(collective, Path::kFlat, 0); };
  EXPECT_NE(of(a), of(b));
  EXPECT_NE(of(a), of(c));
  EXPECT_NE(of(a), of(d));
  EXPECT_NE(of(a), signature_of(a, Path::kDirect, 0));
  EXPECT_NE(of(a), signature_of(a, Path::kFlat, 1));
  const Collective back = from_signature(of(d), 5, 7);
  EXPECT_EQ(describe(back), "broadcast #7 (5 f32, root 3)");
  EXPECT_EQ(path_of(of(d)), Path::kFlat);
}

RankCpus on(std::vector<int> cpus, double quota = 0) { return {std::move(cpus), quota}; }

TEST(ShmWaiting, ExclusiveWhenEveryRankHasACpu) {
  EXPECT_TRUE(exclusive_cpus(std::vector<RankCpus>{on({0, 1}), on({0, 1})}));
  EXPECT_TRUE(exclusive_cpus(std::vector<RankCpus>{on({0}), on({1})}));
  // The first rank must move over for the second to fit.
  EXPECT_TRUE(exclusive_cpus(std::vector<RankCpus>{on({0, 1}), on({0})}));
  EXPECT_FALSE(exclusive_cpus(std::vector<RankCpus>{on({0}), on({0})}));
  EXPECT_FALSE(exclusive_cpus(std::vector<RankCpus>{on({0, 1}), on({0, 1}), on({0, 1})}));
  EXPECT_FALSE(exclusive_cpus(std::vector<RankCpus>{on({0, 1}, 1.5), on({0, 1}, 1.5)}));
  EXPECT_TRUE(exclusive_cpus(std::vector<RankCpus>{on({0, 1}, 2), on({0, 1}, 2)}));
}

TEST(ShmWaiting, SharedCpusNeverSpin) {
  EXPECT_GT(choose_wait_policy(std::vector<RankCpus>{on({0}), on({1})}).spins, 0u);
  EXPECT_EQ(choose_wait_policy(std::vector<RankCpus>{on({0}), on({0})}).spins, 0u);
}

}  // namespace
}  // namespace lockstep::shm
