// Jobs on several hosts by their word alone: ranks of this machine that say where they are. libgloo connects them.

#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/mp/exact_sum.h"
#include "tests/support/free_port.h"

namespace lockstep::mp {
namespace {

using nlohmann::json;
using support::ProcessResult;

TEST(OtherLaunchers, NothingButVariablesOnHostsThatTakeTurns) {
  const ProcessResult result = run_plain({"a", "b", "a", "c", "a"});
  EXPECT_TRUE(result.ok()) << result;
  const char* const kPlaces[] = {"local 0/3 node 0", "local 0/1 node 1", "local 1/3 node 0", "local 0/1 node 2",
                                 "local 2/3 node 0"};
  for (std::size_t rank = 0; rank < 5; ++rank) {
    EXPECT_EQ(result.ranks[rank].out, "torchrun rank " + std::to_string(rank) + "/5 " + kPlaces[rank] + "\n");
  }
}

/// Ranks that say where they are: a and b take turns.
ProcessResult on_two_hosts(int ranks, const Arguments& extra) {
  const int port = support::free_port();
  std::vector<Arguments> commands;
  for (int rank = 0; rank < ranks; ++rank) {
    commands.push_back(joined({{"/usr/bin/env", "RANK=" + std::to_string(rank), "WORLD_SIZE=" + std::to_string(ranks),
                                "MASTER_ADDR=127.0.0.1", "MASTER_PORT=" + std::to_string(port),
                                std::string("LOCKSTEP_HOST_ID=") + (rank % 2 == 0 ? "a" : "b"), "OMP_NUM_THREADS=1",
                                "OPENBLAS_CORETYPE=Haswell"},
                               extra,
                               {LOCKSTEP_PROGRAM, "doctor", "--json"}}));
  }
  return support::run_programs(commands);
}

TEST(Doctor, MeasuresInsideHostsAndBetweenThem) {
  const ProcessResult result = on_two_hosts(4, {"LOCKSTEP_JOB_TOKEN=secret"});
  const json page = json::parse(result.ranks[0].out);
  EXPECT_EQ(page["hosts"][0]["ranks"], (json{0, 2}));
  EXPECT_EQ(page["hosts"][1]["ranks"], (json{1, 3}));
  std::set<std::string> links;
  for (const json& link : page["links"]) links.insert(link["ranks"].dump() + link["inside_host"].dump());
  EXPECT_EQ(links, (std::set<std::string>{"[0,1]false", "[0,2]true", "[1,3]true"}));
  EXPECT_EQ(page["ranks"][3]["local_rank"], 1);
  for (std::size_t rank = 1; rank < 4; ++rank) {
    EXPECT_EQ(result.ranks[rank].exit_code, 0) << result;
    EXPECT_EQ(result.ranks[rank].out, "") << "the page is rank 0's";
  }
}

TEST(Doctor, FindsWhatIsWrongAndSaysSoInItsExitCode) {
  const ProcessResult result = on_two_hosts(2, {});
  const json page = json::parse(result.ranks[0].out);
  ASSERT_EQ(page["problems"].size(), 1u) << page;
  EXPECT_EQ(page["problems"][0]["problem"], "no_token");
  EXPECT_EQ(result.ranks[0].exit_code, 1);
  EXPECT_EQ(result.ranks[1].exit_code, 0);
}

}  // namespace
}  // namespace lockstep::mp
