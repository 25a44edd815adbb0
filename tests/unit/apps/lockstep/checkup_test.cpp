// What `lockstep doctor` measures at once, and what it makes of what it found.

#include "apps/lockstep/doctor/checkup.h"

#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "apps/lockstep/doctor/blas_kernels.h"
#include "lockstep/core/base/error.h"

namespace lockstep::doctor {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

/// Ranks in order, `sizes[h]` of them on host h.
base::HostMap hosts_of(const std::vector<int>& sizes) {
  std::vector<std::string> ids;
  for (std::size_t host = 0; host < sizes.size(); ++host) {
    ids.insert(ids.end(), static_cast<std::size_t>(sizes[host]), "host" + std::to_string(host));
  }
  return base::group_by_host(ids);
}

TEST(PlanPairs, MeasuresEveryPairOfHostsOnceAndNobodyTwiceAtATime) {
  for (int hosts = 1; hosts <= 9; ++hosts) {
    std::vector<int> sizes;
    for (int host = 0; host < hosts; ++host) sizes.push_back(1 + host % 3);
    const base::HostMap map = hosts_of(sizes);
    std::set<std::pair<int, int>> host_pairs;
    std::set<int> inside;
    const auto rounds = plan_pairs(map);
    for (const auto& round : rounds) {
      EXPECT_FALSE(round.empty());
      std::set<int> busy;
      for (const Pair& pair : round) {
        EXPECT_LT(pair.first, pair.second);
        const int a = map.host_of_rank[static_cast<std::size_t>(pair.first)];
        const int b = map.host_of_rank[static_cast<std::size_t>(pair.second)];
        EXPECT_TRUE(busy.insert(a).second) << "host " << a << " of " << hosts;
        if (a == b) {
          EXPECT_TRUE(inside.insert(a).second);
          continue;
        }
        EXPECT_TRUE(busy.insert(b).second) << "host " << b << " of " << hosts;
        EXPECT_TRUE(host_pairs.emplace(std::min(a, b), std::max(a, b)).second);
      }
    }
    EXPECT_EQ(static_cast<int>(host_pairs.size()), hosts * (hosts - 1) / 2);
    int several = 0;
    for (const int size : sizes) several += size > 1 ? 1 : 0;
    EXPECT_EQ(static_cast<int>(inside.size()), several);
    EXPECT_LE(static_cast<int>(rounds.size()), hosts + 1);
  }
}

TEST(PlanPairs, OfFewRanks) {
  EXPECT_THAT(plan_pairs(hosts_of({1})), IsEmpty());
  EXPECT_THAT(plan_pairs(hosts_of({3})), ElementsAre(ElementsAre(Pair{0, 1})));
  EXPECT_THAT(plan_pairs(hosts_of({2, 1})), ElementsAre(ElementsAre(Pair{0, 1}), ElementsAre(Pair{0, 2})));
  // Rank 1 is alone on its host.
  EXPECT_THAT(plan_pairs(base::group_by_host(std::vector<std::string>{"a", "b", "a"})),
              ElementsAre(ElementsAre(Pair{0, 2}), ElementsAre(Pair{0, 1})));
}

/// A job in which nothing is wrong: each rank has two CPUs of its own.
Checkup healthy(const std::vector<int>& sizes) {
  Checkup checkup;
  checkup.backend = "test";
  checkup.map = hosts_of(sizes);
  for (std::size_t rank = 0; rank < checkup.map.host_of_rank.size(); ++rank) {
    const int host = checkup.map.host_of_rank[rank];
    RankFacts facts;
    facts.rank = static_cast<int>(rank);
    facts.host_name = "node" + std::to_string(host);
    facts.boot_id = "boot" + std::to_string(host);
    facts.host_id = facts.boot_id + ",...";
    facts.build = "lockstep 1";
    facts.simd = "AVX2";
    facts.blas = "Haswell";
    const int first = 2 * facts.rank;
    facts.cpus = {first, first + 1};
    facts.omp_num_threads = "2";
    facts.has_token = true;
    checkup.ranks.push_back(facts);
  }
  for (const auto& round : plan_pairs(checkup.map)) {
    for (const Pair& pair : round) {
      const bool inside = checkup.map.host_of_rank[static_cast<std::size_t>(pair.first)] ==
                          checkup.map.host_of_rank[static_cast<std::size_t>(pair.second)];
      checkup.links.push_back({pair, inside, inside ? 0.5 : 30, inside ? 10.0 : 1.0});
    }
  }
  return checkup;
}

Problem only_problem(const Checkup& checkup) {
  const auto problems = find_problems(checkup);
  EXPECT_THAT(problems, SizeIs(1));
  return problems.empty() ? Problem{} : problems[0];
}

TEST(FindProblems, NoneInAHealthyJob) {
  for (const auto& sizes : {std::vector<int>{1}, {3}, {2, 2}, {1, 1, 1}, {4, 1, 3}}) {
    EXPECT_THAT(find_problems(healthy(sizes)), IsEmpty());
  }
}

TEST(FindProblems, DifferingBuildsAreNamedWithTheirRanks) {
  Checkup checkup = healthy({2, 2});
  checkup.ranks[3].build = "lockstep 2";
  const Problem problem = only_problem(checkup);
  EXPECT_EQ(problem.kind, "builds_differ");
  EXPECT_THAT(problem.ranks, ElementsAre(3));
  EXPECT_THAT(problem.text, AllOf(HasSubstr("ranks 0-2: lockstep 1"), HasSubstr("rank 3: lockstep 2")));
}

TEST(FindProblems, AnotherBackendAskedFor) {
  Checkup checkup = healthy({3});
  checkup.ranks[1].backend_asked = "shm";
  const Problem problem = only_problem(checkup);
  EXPECT_EQ(problem.kind, "backend_asked_differs");
  EXPECT_THAT(problem.text, AllOf(HasSubstr("ranks 0, 2: unset"), HasSubstr("rank 1: shm")));
}

TEST(FindProblems, MoreRanksThanCpus) {
  Checkup checkup = healthy({1, 3});
  for (RankFacts& facts : checkup.ranks) facts.cpus = {4, 5};
  Problem problem = only_problem(checkup);
  EXPECT_EQ(problem.kind, "too_many_ranks");
  EXPECT_THAT(problem.ranks, ElementsAre(1, 2, 3));
  EXPECT_THAT(problem.text, AllOf(HasSubstr("host 1 (node1): 3 ranks on 2 CPUs"), HasSubstr("at most 2")));
  // Three CPUs would do, but the control group gives the time of two and a half.
  for (RankFacts& facts : checkup.ranks) facts.cpus = {4, 5, 6};
  for (RankFacts& facts : checkup.ranks) facts.omp_num_threads = "1";
  EXPECT_THAT(find_problems(checkup), IsEmpty());
  checkup.ranks[2].quota = 2.5;
  problem = only_problem(checkup);
  EXPECT_THAT(problem.text, HasSubstr("3 ranks on 2 CPUs"));
}

TEST(FindProblems, ThreadsOfRanksThatShareCpus) {
  Checkup checkup = healthy({2});
  for (RankFacts& facts : checkup.ranks) facts.cpus = {0, 1, 2, 3, 4};
  EXPECT_THAT(find_problems(checkup), IsEmpty());
  checkup.ranks[1].omp_num_threads = "4";
  Problem problem = only_problem(checkup);
  EXPECT_EQ(problem.kind, "too_many_threads");
  EXPECT_THAT(problem.text, AllOf(HasSubstr("6 threads on 5 CPUs"), HasSubstr("set it to 2")));
  checkup.ranks[1].omp_num_threads = "";
  problem = only_problem(checkup);
  EXPECT_EQ(problem.kind, "threads_unset");
  EXPECT_THAT(problem.ranks, ElementsAre(1));
  EXPECT_THAT(problem.text, AllOf(HasSubstr("not set on rank 1"), HasSubstr("set it to 2")));
}

TEST(FindProblems, ThreadsUnsetAreFineWhereOneRankIsAloneOrBound) {
  Checkup alone = healthy({1, 1});
  for (RankFacts& facts : alone.ranks) facts.omp_num_threads = "";
  EXPECT_THAT(find_problems(alone), IsEmpty());
  Checkup bound = healthy({2});
  for (RankFacts& facts : bound.ranks) facts.omp_num_threads = "";
  EXPECT_THAT(find_problems(bound), IsEmpty());
}

TEST(FindProblems, ClocksApartByMoreThanTheErrorOfTheMeasurement) {
  Checkup checkup = healthy({1, 1});
  checkup.ranks[1].clock_us = -1500;
  checkup.ranks[1].clock_error_us = 500;
  EXPECT_THAT(find_problems(checkup), IsEmpty());
  checkup.ranks[1].clock_error_us = 499;
  const Problem problem = only_problem(checkup);
  EXPECT_EQ(problem.kind, "clocks_apart");
  EXPECT_THAT(problem.text, HasSubstr("host 1 (node1) is 1.5 ms behind rank 0's"));
}

TEST(FindProblems, ALinkTenTimesWorseThanTheOthersOfItsKind) {
  Checkup checkup = healthy({1, 1, 1});
  checkup.links[1].latency_us = 299;
  EXPECT_THAT(find_problems(checkup), IsEmpty());
  checkup.links[1].latency_us = 300;
  Problem problem = only_problem(checkup);
  EXPECT_EQ(problem.kind, "slow_link");
  EXPECT_THAT(problem.ranks, ElementsAre(checkup.links[1].ranks.first, checkup.links[1].ranks.second));
  checkup.links[1].latency_us = 30;
  checkup.links[2].gigabytes_per_s = 0.1;
  problem = only_problem(checkup);
  EXPECT_THAT(problem.ranks, ElementsAre(checkup.links[2].ranks.first, checkup.links[2].ranks.second));
  EXPECT_THAT(problem.text, HasSubstr("ten times slower"));
  // One link of a kind has nothing to be compared with.
  Checkup two = healthy({2, 1});
  EXPECT_THAT(find_problems(two), IsEmpty());
}

TEST(FindProblems, OneMachineThatCountsAsTwoHosts) {
  Checkup checkup = healthy({1, 1, 1});
  checkup.ranks[2].boot_id = checkup.ranks[0].boot_id;
  checkup.ranks[2].host_id = checkup.ranks[0].boot_id + ",other namespaces";
  const Problem problem = only_problem(checkup);
  EXPECT_EQ(problem.kind, "kernel_shared");
  EXPECT_THAT(problem.ranks, ElementsAre(0, 2));
  EXPECT_THAT(problem.text, HasSubstr("hosts 0, 2 are one machine"));
  // Who said so with LOCKSTEP_HOST_ID knows.
  checkup.ranks[2].host_id = "b";
  EXPECT_THAT(find_problems(checkup), IsEmpty());
}

TEST(FindProblems, AStoreThatIsOpenToStrangers) {
  Checkup checkup = healthy({2, 1});
  checkup.ranks[1].has_token = checkup.ranks[2].has_token = false;
  const Problem problem = only_problem(checkup);
  EXPECT_EQ(problem.kind, "no_token");
  EXPECT_THAT(problem.ranks, ElementsAre(1, 2));
  Checkup one_host = healthy({2});
  one_host.ranks[1].has_token = false;
  EXPECT_THAT(find_problems(one_host), IsEmpty());
}

TEST(FindProblems, MatrixProductsForAnOlderCpu) {
  Checkup checkup = healthy({1, 2});
  for (RankFacts& facts : checkup.ranks) facts.simd = "AVX3_SPR";
  EXPECT_THAT(find_problems(checkup), IsEmpty());
  checkup.ranks[1].blas = checkup.ranks[2].blas = "Prescott";
  const Problem problem = only_problem(checkup);
  EXPECT_EQ(problem.kind, "slow_blas");
  EXPECT_THAT(problem.ranks, ElementsAre(1, 2));
  EXPECT_THAT(problem.text,
              AllOf(HasSubstr("host 1 (node1)"), HasSubstr("Prescott"), HasSubstr("OPENBLAS_CORETYPE=SkylakeX")));
}

TEST(BetterBlasKernels, AreAskedForWhereTheCpuHasThemAndOpenBlasDidNotSee) {
  EXPECT_EQ(better_blas_kernels("Prescott", "AVX3"), "SkylakeX");
  EXPECT_EQ(better_blas_kernels("Sandybridge", "AVX2"), "Haswell");
  EXPECT_EQ(better_blas_kernels("Nehalem", "SSE4"), "");
  for (const char* name : {"Haswell", "Zen", "SkylakeX", "Sapphirerapids", "a later one", ""}) {
    EXPECT_EQ(better_blas_kernels(name, "AVX3"), "") << name;
  }
}

TEST(RankFactsBlob, LosesNothing) {
  RankFacts facts = healthy({3}).ranks[2];
  facts.local_rank = 7;
  facts.launcher = "slurm";
  facts.simd = "AVX3";
  facts.blas = "SkylakeX";
  facts.quota = 2.5;
  facts.backend_asked = "shm";
  facts.store_us = 12.25;
  facts.clock_us = -0.1;
  facts.clock_error_us = 1.0 / 3;
  const RankFacts back = from_blob(to_blob(facts));
  EXPECT_EQ(to_blob(back), to_blob(facts));
  EXPECT_EQ(back.cpus, facts.cpus);
  EXPECT_EQ(back.clock_error_us, facts.clock_error_us);
  EXPECT_EQ(back.launcher, "slurm");
  EXPECT_EQ(back.blas, "SkylakeX");
  EXPECT_TRUE(back.has_token);
}

TEST(RankFactsBlob, OfAnotherBuildIsRefused) {
  for (const char* blob : {"", "[]", "{}", "{\"rank\":\"x\"}", "\xff"}) EXPECT_THROW(from_blob(blob), CorruptionError);
}

TEST(RankRanges, AreForPeople) {
  EXPECT_EQ(rank_ranges({}), "");
  EXPECT_EQ(rank_ranges({4}), "4");
  EXPECT_EQ(rank_ranges({0, 1}), "0, 1");
  EXPECT_EQ(rank_ranges({0, 1, 2, 5, 7, 8}), "0-2, 5, 7, 8");
}

}  // namespace
}  // namespace lockstep::doctor
