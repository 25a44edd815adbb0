// The planner as mathematics: what must hold for every kind, size, world, memory and machine.

#include <algorithm>
#include <array>
#include <numeric>
#include <set>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/core/backend/shm/layout.h"
#include "lockstep/core/backend/shm/plan.h"
#include "lockstep/core/backend/shm/waiting.h"

namespace lockstep::shm {
namespace {

constexpr MemoryKind kUser{false, false};
constexpr MemoryKind kShared{true, true};
constexpr std::array kMemories = {kUser, MemoryKind{true, false}, MemoryKind{false, true}, kShared};
constexpr std::array kKinds = {OpKind::kBroadcast, OpKind::kAllReduce, OpKind::kReduce,  OpKind::kReduceScatter,
                               OpKind::kAllGather, OpKind::kGather,    OpKind::kScatter, OpKind::kAllToAll};
constexpr std::array kWorlds = {2, 3, 5, 8, 64};
/// The built-in ones, ranks that share CPUs, cores of one chip, and copies that cost nothing beside hand-offs.
constexpr std::array kMachines = {Constants{}, kSharedCpus, Constants{60, 15, 20}, Constants{10000, 2, 2}};

Collective make(OpKind kind, std::size_t count, DType dtype = DType::kFloat32) {
  Collective collective;
  collective.kind = kind;
  collective.count = count;
  collective.dtype = dtype;
  return collective;
}

/// Unequal parts; `counts` must outlive what is returned.
Collective unequal(OpKind kind, const std::vector<std::size_t>& counts) {
  Collective collective = make(kind, std::accumulate(counts.begin(), counts.end(), std::size_t{0}));
  collective.counts = counts;
  return collective;
}

bool has_parts_for_each_receiver(OpKind kind) {
  return kind == OpKind::kReduceScatter || kind == OpKind::kScatter || kind == OpKind::kAllToAll;
}

/// Bytes that one rank shows to others, at least at the root.
std::size_t shown_bytes(const Collective& collective, int world) {
  const std::size_t parts = has_parts_for_each_receiver(collective.kind) ? static_cast<std::size_t>(world) : 1;
  return collective.count * parts * size_of(collective.dtype);
}

struct Case {
  Collective collective;
  int world;
  MemoryKind memory;
  Constants constants;

  Plan plan() const { return plan_for(collective, world, memory, constants); }
  std::string text() const {
    return describe(collective) + " world " + std::to_string(world) + (memory.input_shared ? " input" : "") +
           (memory.output_shared ? " output" : "") + " shared, hand-off " + std::to_string(constants.handoff_ns);
  }
};

/// Everything: sizes around each limit of each path, and odd ones.
std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const OpKind kind : kKinds) {
    for (const DType dtype : {DType::kInt8, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
      for (const int world : kWorlds) {
        for (const std::size_t count :
             {0u, 1u, 10u, 20u, 21u, 255u, 1031u, 20011u, 65536u, 65537u, 262145u, 1048577u}) {
          for (const MemoryKind& memory : kMemories) {
            for (const Constants& machine : kMachines)
              cases.push_back({make(kind, count, dtype), world, memory, machine});
          }
        }
      }
    }
  }
  return cases;
}

auto fields_of(const Plan& plan) { return std::make_tuple(plan.path, plan.ticks, plan.piece, plan.awaits, plan.open); }

TEST(ShmPlan, NothingMovesWithoutElements) {
  for (const OpKind kind : kKinds) EXPECT_EQ(plan_for(make(kind, 0), 4, kShared, {}).path, Path::kSync);
  EXPECT_EQ(plan_for(make(OpKind::kBarrier, 0), 4, kUser, {}).path, Path::kSync);
  // An allocation's count is a request, nothing that moves.
  EXPECT_EQ(plan_for(make(OpKind::kAllocate, 1 << 20), 4, kUser, {}).path, Path::kSync);
  EXPECT_EQ(plan_for(make(OpKind::kAllocate, 1 << 20), 4, kUser, {}).ticks, 1u);
}

TEST(ShmPlan, TakesThePossiblePathOfLeastCost) {
  for (const Case& at : all_cases()) {
    const Costs costs = costs_of(at.collective, at.world, at.memory, at.constants);
    const double chosen = costs[static_cast<std::size_t>(at.plan().path)];
    ASSERT_GE(chosen, 0) << at.text();
    for (const double cost : costs) ASSERT_TRUE(cost < 0 || chosen <= cost) << at.text();
  }
}

TEST(ShmPlan, ExplainsExactlyWhatItDoes) {
  for (const Case& at : all_cases()) {
    if (at.memory.input_shared != at.memory.output_shared) continue;
    const auto estimates = estimates_of(at.collective, at.world, at.memory.input_shared, at.constants);
    const Costs costs = costs_of(at.collective, at.world, at.memory, at.constants);
    const Plan plan = at.plan();
    std::set<std::string_view> named;
    int chosen = 0;
    for (const PathEstimate& estimate : estimates) {
      named.insert(estimate.path);
      if (!estimate.chosen) continue;
      ++chosen;
      ASSERT_EQ(estimate.path, name_of(plan.path)) << at.text();
      ASSERT_EQ(estimate.steps, plan.ticks) << at.text();
      ASSERT_DOUBLE_EQ(estimate.us, costs[static_cast<std::size_t>(plan.path)] / 1000) << at.text();
    }
    ASSERT_EQ(chosen, 1) << at.text();
    ASSERT_EQ(named.size(), estimates.size()) << at.text();
    ASSERT_EQ(estimates.size(), std::count_if(costs.begin(), costs.end(), [](double cost) { return cost >= 0; }));
  }
}

TEST(ShmPlan, ChoosesNothingThatCannotHold) {
  std::set<Path> seen;
  for (const Case& at : all_cases()) {
    const std::size_t nbytes = shown_bytes(at.collective, at.world);
    const Path path = at.plan().path;
    seen.insert(path);
    ASSERT_EQ(path == Path::kSync, nbytes == 0) << at.text();
    ASSERT_TRUE(path != Path::kInline || nbytes <= 80) << at.text();
    ASSERT_TRUE(path == Path::kFlat || path == Path::kStaged || at.plan().ticks == 1) << at.text();
    ASSERT_TRUE(nbytes > 256u << 10 || at.plan().ticks == 1) << at.text();
    const bool whole = at.collective.kind == OpKind::kAllReduce || at.collective.kind == OpKind::kReduce;
    ASSERT_TRUE(path != Path::kStaged || whole) << at.text();
  }
  EXPECT_EQ(seen.size(), static_cast<std::size_t>(kPathCount));
}

TEST(ShmPlan, GoesDirectOnlyWherePeersReachTheMemory) {
  for (const Case& at : all_cases()) {
    const bool direct = at.plan().path == Path::kDirect;
    bool reachable = at.memory.input_shared;  // Each rank reads the others' inputs and writes its own output.
    if (at.collective.kind == OpKind::kBroadcast || at.collective.kind == OpKind::kScatter) {
      reachable = at.memory.output_shared;  // The root's input is known to the root alone.
    } else if (at.collective.kind == OpKind::kAllReduce) {
      reachable = at.memory.input_shared && at.memory.output_shared;
    }
    if (!reachable) {
      ASSERT_FALSE(direct) << at.text();
    } else if (at.constants.handoff_ns < 10000 && shown_bytes(at.collective, at.world) > 256u << 10) {
      ASSERT_TRUE(direct) << at.text();  // Large buffers never pay for a copy that they need not.
    }
  }
}

TEST(ShmPlan, PiecesCoverEverythingAndFitTheSlot) {
  int staged = 0;
  for (const Case& at : all_cases()) {
    const Plan plan = at.plan();
    if (plan.path != Path::kStaged) continue;
    ++staged;
    const std::size_t parts = has_parts_for_each_receiver(at.collective.kind) ? static_cast<std::size_t>(at.world) : 1;
    ASSERT_GE(plan.ticks * plan.piece, at.collective.count) << at.text();
    ASSERT_LT((plan.ticks - 1) * plan.piece, at.collective.count) << at.text();
    ASSERT_LE(parts * plan.piece * size_of(at.collective.dtype), kSegmentBytes) << at.text();
    ASSERT_EQ(plan.piece * size_of(at.collective.dtype) % 64, 0u) << at.text();  // No cache line in two pieces.
    ASSERT_FALSE(plan.open) << at.text();
  }
  EXPECT_GT(staged, 100);
}

TEST(ShmPlan, LargerBuffersNeverGoBackToASmallOnesPath) {
  for (const OpKind kind : kKinds) {
    for (const int world : kWorlds) {
      for (const MemoryKind& memory : kMemories) {
        for (const Constants& machine : kMachines) {
          Path last = Path::kSync;
          for (std::size_t count = 1; count < 8u << 20; count = count * 3 / 2 + 1) {
            const Case at{make(kind, count), world, memory, machine};
            ASSERT_GE(at.plan().path, last) << at.text();
            last = at.plan().path;
          }
        }
      }
    }
  }
}

TEST(ShmPlan, SmallOnesOnSharedCpusTakeFewerHandOffs) {
  const Collective middling = make(OpKind::kAllReduce, 16 << 10);  // 64 KiB
  EXPECT_EQ(plan_for(middling, 4, kUser, Constants{120, 25, 20}).path, Path::kStaged);
  EXPECT_EQ(plan_for(middling, 4, kUser, kSharedCpus).path, Path::kFlat);
}

TEST(ShmPlan, EveryRankPlansAlikeWhateverTheRootHas) {
  for (const Case& at : all_cases()) {
    Case elsewhere = at;
    switch (at.collective.kind) {
      case OpKind::kReduce:
      case OpKind::kGather: elsewhere.memory.output_shared = !at.memory.output_shared; break;
      case OpKind::kScatter:
      case OpKind::kBroadcast: elsewhere.memory.input_shared = !at.memory.input_shared; break;
      default: continue;
    }
    for (const int root : {0, at.world - 1}) {
      elsewhere.collective.root = root;
      ASSERT_EQ(fields_of(at.plan()), fields_of(elsewhere.plan())) << at.text();
    }
  }
}

TEST(ShmPlan, ThoseWaitWhoseResultOthersMakeOrWhoseInputOthersRead) {
  const auto awaits = [](OpKind kind, std::size_t count, MemoryKind memory) {
    return plan_for(make(kind, count), 4, memory, {}).awaits;
  };
  EXPECT_EQ(awaits(OpKind::kAllReduce, 1 << 20, kUser), Awaits::kEveryone);
  EXPECT_EQ(awaits(OpKind::kReduce, 1 << 20, kUser), Awaits::kEveryoneAtRoot);
  EXPECT_EQ(awaits(OpKind::kReduceScatter, 1 << 20, kUser), Awaits::kNobody);
  EXPECT_EQ(awaits(OpKind::kAllReduce, 64, kUser), Awaits::kNobody);
  for (const OpKind kind : kKinds) EXPECT_EQ(awaits(kind, 1 << 20, kShared), Awaits::kEveryone) << name_of(kind);
}

TEST(ShmPlan, UnequalPartsAreCoveredByTheLargest) {
  const std::vector<std::size_t> counts = {3, 0, 400'003};
  for (const OpKind kind : {OpKind::kAllGather, OpKind::kReduceScatter}) {
    const Plan plan = plan_for(unequal(kind, counts), 3, kUser, {});
    ASSERT_EQ(plan.path, Path::kFlat);
    EXPECT_GE(plan.ticks * plan.piece, 400'003u);
    EXPECT_LT((plan.ticks - 1) * plan.piece, 400'003u);
    EXPECT_FALSE(plan.open);
  }
}

TEST(ShmPlan, WhatOneRankAloneKnowsDecidesNothing) {
  const std::vector<std::vector<std::size_t>> sizes = {{0, 0, 0}, {1, 2, 3}, {0, 1'000'000, 0}};
  for (const MemoryKind& memory : kMemories) {
    const Plan first = plan_for(unequal(OpKind::kAllToAll, sizes[0]), 3, memory, {});
    // Which memory a rank with nothing to give has tells nothing either.
    EXPECT_NE(first.path, Path::kDirect);
    EXPECT_TRUE(first.open);
    for (const auto& counts : sizes) {
      EXPECT_EQ(fields_of(plan_for(unequal(OpKind::kAllToAll, counts), 3, memory, {})), fields_of(first));
    }
  }
}

TEST(ShmPlan, ARankWithoutAPartHasNoSayInTheMemory) {
  const std::vector<std::size_t> all = {400'003, 1, 400'003};
  const std::vector<std::size_t> holes = {400'003, 0, 400'003};
  EXPECT_EQ(plan_for(unequal(OpKind::kAllGather, all), 3, kShared, {}).path, Path::kDirect);
  const Plan without = plan_for(unequal(OpKind::kAllGather, holes), 3, kUser, {});
  for (const MemoryKind& memory : kMemories) {
    EXPECT_EQ(fields_of(plan_for(unequal(OpKind::kAllGather, holes), 3, memory, {})), fields_of(without));
  }
  // The whole input of a reduce_scatter is everyone's.
  EXPECT_EQ(plan_for(unequal(OpKind::kReduceScatter, holes), 3, kShared, {}).path, Path::kDirect);
}

TEST(ShmPlan, WhetherMemoryMattersIsToldAlikeByAllRanks) {
  for (const OpKind kind : kKinds) {
    for (const std::size_t count : {1u, 63u, 64u, 65u, 255u, 256u, 257u, 100'003u}) {
      Collective collective = make(kind, count);
      const bool asks = asks_for_memory(collective, 4);
      for (collective.root = 0; collective.root < 4; ++collective.root) {
        EXPECT_EQ(asks_for_memory(collective, 4), asks) << name_of(kind) << ' ' << count;
      }
      // Where it does not matter no path that needs it is taken.
      const Path path = plan_for(collective, 4, kShared, {}).path;
      EXPECT_TRUE(asks || path != Path::kDirect) << name_of(kind) << ' ' << count;
    }
  }
}

TEST(ShmPlan, SignatureTellsCallsApart) {
  std::vector<Collective> calls;
  for (const OpKind kind : {OpKind::kBarrier, OpKind::kAllocate}) calls.push_back(make(kind, 5));
  for (const OpKind kind : kKinds) calls.push_back(make(kind, 5));
  for (int dtype = 1; dtype < kDTypeCount; ++dtype) {
    calls.push_back(make(OpKind::kAllReduce, 5, static_cast<DType>(dtype)));
  }
  for (int op = 1; op < kReduceOpCount; ++op) {
    calls.push_back(make(OpKind::kAllReduce, 5));
    calls.back().op = static_cast<ReduceOp>(op);
  }
  for (const int root : {1, 2, 7, 1023}) {
    calls.push_back(make(OpKind::kBroadcast, 5));
    calls.back().root = root;
  }
  const std::vector<std::vector<std::size_t>> counts = {{1, 4}, {4, 1}, {2, 3}, {5, 0}, {0, 5}};
  for (const auto& each : counts) calls.push_back(unequal(OpKind::kAllGather, each));
  std::set<std::uint64_t> signatures;
  for (const Collective& call : calls) signatures.insert(signature_of(call, Path::kFlat, 0));
  EXPECT_EQ(signatures.size(), calls.size());
  signatures.insert(signature_of(calls.back(), Path::kDirect, 0));
  signatures.insert(signature_of(calls.back(), Path::kFlat, 1));
  EXPECT_EQ(signatures.size(), calls.size() + 2);
}

TEST(ShmPlan, SignatureSaysNothingThatOnlyOneRankKnows) {
  const std::vector<std::size_t> mine = {1, 2};
  const std::vector<std::size_t> other = {7, 0};
  const auto of = [](const Collective& collective) { return signature_of(collective, Path::kStaged, 0); };
  EXPECT_EQ(of(unequal(OpKind::kAllToAll, mine)), of(unequal(OpKind::kAllToAll, other)));
  EXPECT_NE(of(unequal(OpKind::kAllToAll, mine)), of(make(OpKind::kAllToAll, 3)));
}

TEST(ShmPlan, SignatureIsReadBackForMessages) {
  Collective collective = make(OpKind::kBroadcast, 5);
  collective.root = 3;
  const std::uint64_t signature = signature_of(collective, Path::kFlat, 0);
  EXPECT_EQ(describe(from_signature(signature, 5, 7)), "broadcast #7 (5 f32, root 3)");
  EXPECT_EQ(path_of(signature), Path::kFlat);
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
