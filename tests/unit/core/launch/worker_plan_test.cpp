#include "lockstep/core/launch/worker_plan.h"

#include <map>
#include <numeric>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep::launch {
namespace {

using base::CpuBudget;
using testing::ElementsAre;

CpuBudget cpus(int n, double quota = 0) {
  CpuBudget budget;
  budget.cpus.resize(static_cast<std::size_t>(n));
  std::iota(budget.cpus.begin(), budget.cpus.end(), 0);
  budget.quota = quota;
  budget.usable = quota > 0 && quota < n ? std::max(1, static_cast<int>(quota)) : n;
  return budget;
}

std::map<std::string, std::string> as_map(const Variables& variables) { return {variables.begin(), variables.end()}; }

TEST(ShareCpus, SharesAreContiguousAndCoverEverythingOnce) {
  for (int n : {1, 2, 3, 7, 64}) {
    for (int workers = 1; workers <= n; ++workers) {
      std::vector<int> all;
      std::size_t least = 1000;
      std::size_t most = 0;
      for (const auto& share : share_cpus(cpus(n), workers)) {
        all.insert(all.end(), share.begin(), share.end());
        least = std::min(least, share.size());
        most = std::max(most, share.size());
      }
      EXPECT_EQ(all, cpus(n).cpus) << n << " CPUs, " << workers << " workers";
      EXPECT_LE(most - least, 1u);
      EXPECT_GE(least, 1u);
    }
  }
}

TEST(ShareCpus, KeepsTheNumbersOfTheMask) {
  CpuBudget budget;
  budget.cpus = {1, 3, 8, 9, 12};
  budget.usable = 5;
  EXPECT_THAT(share_cpus(budget, 2), ElementsAre(ElementsAre(1, 3, 8), ElementsAre(9, 12)));
}

TEST(ShareCpus, MoreWorkersThanCpusAreNotPinned) {
  for (const auto& share : share_cpus(cpus(2), 3)) EXPECT_TRUE(share.empty());
}

TEST(ShareCpus, AQuotaBelowTheMaskLeavesTheChoiceToTheKernel) {
  for (const auto& share : share_cpus(cpus(8, 2.5), 2)) EXPECT_TRUE(share.empty());
  EXPECT_THAT(share_cpus(cpus(2, 16), 2), ElementsAre(ElementsAre(0), ElementsAre(1)));
}

TEST(PlanWorkers, ThreadsAreTheShare) {
  PlanOptions options;
  const auto threads = [&](int workers, const CpuBudget& budget) {
    options.local_world_size = options.world_size = workers;
    std::vector<int> out;
    for (const auto& plan : plan_workers(options, budget)) out.push_back(plan.threads);
    return out;
  };
  EXPECT_THAT(threads(1, cpus(8)), ElementsAre(8));
  EXPECT_THAT(threads(3, cpus(8)), ElementsAre(3, 3, 2));
  EXPECT_THAT(threads(3, cpus(2)), ElementsAre(1, 1, 1));
  EXPECT_THAT(threads(2, cpus(64, 5.9)), ElementsAre(2, 2));
  options.pin = false;
  EXPECT_THAT(threads(2, cpus(8)), ElementsAre(4, 4));
  for (const auto& plan : plan_workers(options, cpus(8))) EXPECT_TRUE(plan.cpus.empty());
}

TEST(PlanWorkers, EnvironmentIsTorchrunsAndOurs) {
  PlanOptions options;
  options.nnodes = 2;
  options.node_rank = 1;
  options.first_rank = 4;
  options.local_world_size = 3;
  options.world_size = 7;
  options.master_address = "node0";
  options.master_port = 1234;
  options.store = "node0:29500";
  options.job_token = "secret";
  options.run_id = "job7";
  options.role = "trainer";
  options.restart_count = 1;
  options.max_restarts = 3;
  const auto plans = plan_workers(options, cpus(6));
  ASSERT_EQ(plans.size(), 3u);
  EXPECT_EQ(plans[2].rank, 6);
  EXPECT_EQ(plans[2].local_rank, 2);
  EXPECT_THAT(plans[2].cpus, ElementsAre(4, 5));
  const std::map<std::string, std::string> expected = {{"RANK", "6"},
                                                       {"WORLD_SIZE", "7"},
                                                       {"LOCAL_RANK", "2"},
                                                       {"LOCAL_WORLD_SIZE", "3"},
                                                       {"GROUP_RANK", "1"},
                                                       {"GROUP_WORLD_SIZE", "2"},
                                                       {"ROLE_NAME", "trainer"},
                                                       {"ROLE_RANK", "6"},
                                                       {"ROLE_WORLD_SIZE", "7"},
                                                       {"MASTER_ADDR", "node0"},
                                                       {"MASTER_PORT", "1234"},
                                                       {"TORCHELASTIC_RESTART_COUNT", "1"},
                                                       {"TORCHELASTIC_MAX_RESTARTS", "3"},
                                                       {"TORCHELASTIC_RUN_ID", "job7"},
                                                       {"TORCHELASTIC_USE_AGENT_STORE", "False"},
                                                       {"LOCKSTEP_STORE", "node0:29500"},
                                                       {"LOCKSTEP_JOB_TOKEN", "secret"},
                                                       {"OMP_NUM_THREADS", "2"}};
  EXPECT_EQ(as_map(plans[2].environment), expected);
  options.set_threads = false;
  EXPECT_FALSE(as_map(plan_workers(options, cpus(6))[0].environment).contains("OMP_NUM_THREADS"));
}

TEST(DescribePlan, SaysHowTheCpusAreShared) {
  PlanOptions options;
  options.local_world_size = options.world_size = 2;
  const auto line = [&](const CpuBudget& budget) { return describe(plan_workers(options, budget), budget, true); };
  EXPECT_EQ(line(cpus(2)), "2 workers on 2 CPUs (1 each: 0 | 1), OMP_NUM_THREADS=1");
  EXPECT_EQ(line(cpus(5)), "2 workers on 5 CPUs (2-3 each: 0-2 | 3-4), OMP_NUM_THREADS=2-3");
  EXPECT_EQ(line(cpus(1)), "2 workers on 1 CPU, not pinned, OMP_NUM_THREADS=1");
  EXPECT_EQ(line(cpus(8, 4.5)), "2 workers on 8 CPUs (quota 4.5), not pinned, OMP_NUM_THREADS=2");
  options.local_world_size = 1;
  EXPECT_EQ(describe(plan_workers(options, cpus(1)), cpus(1), false), "1 worker on 1 CPU (1 each: 0)");
}

TEST(FormatCpus, WritesRanges) {
  EXPECT_EQ(format_cpus({}), "");
  EXPECT_EQ(format_cpus({3}), "3");
  EXPECT_EQ(format_cpus({0, 1, 2, 5, 7, 8}), "0-2,5,7-8");
}

TEST(MergeEnvironment, WhatIsAddedReplacesWhatWasThere) {
  EXPECT_THAT(merge_environment({"A=1", "RANK=9", "B=x=y", "RANKS=2"}, {{"RANK", "0"}, {"C", ""}}),
              ElementsAre("A=1", "B=x=y", "RANKS=2", "RANK=0", "C="));
}

}  // namespace
}  // namespace lockstep::launch
