// What `lockstep run` refuses before it starts anything.

#include "lockstep/core/launch/job.h"

#include <functional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/core/launch/preview.h"

namespace lockstep::launch {
namespace {

JobOptions good() {
  JobOptions options;
  options.command = {"/bin/true"};
  return options;
}

TEST(ValidateJob, AcceptsWhatCanRun) {
  EXPECT_NO_THROW(validate(good()));
  JobOptions nodes = good();
  nodes.nnodes = 3;
  nodes.node_rank = 2;
  nodes.master_address = "node0";
  nodes.endpoint_port = 29500;
  EXPECT_NO_THROW(validate(nodes));
}

TEST(LoopbackProblem, IsANameThatOnlyThisHostReaches) {
  EXPECT_THAT(loopback_problem("node0", "127.0.1.1"),
              testing::AllOf(testing::HasSubstr("node0 stands for 127.0.1.1"), testing::HasSubstr("--master-addr")));
  EXPECT_NE(loopback_problem("node0", "::1"), "");
  EXPECT_EQ(loopback_problem("node0", "10.0.0.1"), "");
  for (const char* meant : {"localhost", "127.0.0.1", "127.0.0.2"}) EXPECT_EQ(loopback_problem(meant, "127.0.0.1"), "");
  EXPECT_EQ(loopback_problem("::1", "::1"), "");
}

struct Case {
  std::string name;
  std::function<void(JobOptions&)> spoil;
  std::string text;
};

class ValidateBadJob : public testing::TestWithParam<Case> {};

TEST_P(ValidateBadJob, IsAUsageErrorThatNamesTheFlag) {
  JobOptions options = good();
  GetParam().spoil(options);
  try {
    validate(options);
    FAIL() << "accepted";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr(GetParam().text));
    EXPECT_THAT(error.what(), testing::Not(testing::HasSubstr("\n")));
  }
}

const Case kCases[] = {
    {"no_program", [](JobOptions& o) { o.command.clear(); }, "no program was given"},
    {"no_such_program", [](JobOptions& o) { o.command = {"/no/such/program"}; }, "'/no/such/program'"},
    {"a_directory", [](JobOptions& o) { o.command = {"/"}; }, "is a directory"},
    {"not_on_path", [](JobOptions& o) { o.command = {"no-such-program-anywhere"}; }, "is not on PATH"},
    {"no_workers", [](JobOptions& o) { o.nproc_per_node = 0; }, "--nproc-per-node 0"},
    {"no_nodes", [](JobOptions& o) { o.nnodes = 0; }, "--nnodes 0"},
    {"node_outside", [](JobOptions& o) { o.node_rank = 1; }, "--node-rank 1"},
    {"nodes_without_an_address", [](JobOptions& o) { o.nnodes = 2; }, "--master-addr"},
    {"nodes_without_a_port",
     [](JobOptions& o) {
       o.nnodes = 2;
       o.master_address = "node0";
     },
     "a port that all nodes know"},
    {"negative_restarts", [](JobOptions& o) { o.max_restarts = -1; }, "--max-restarts -1"},
    {"a_path_for_a_name", [](JobOptions& o) { o.run_id = "../x"; }, "--rdzv-id '../x'"},
    {"tee_to_nowhere", [](JobOptions& o) { o.tee = parse_stream_choice("3"); }, "--tee needs --log-dir"},
    {"redirects_to_nowhere", [](JobOptions& o) { o.redirects = parse_stream_choice("1"); }, "--redirects needs"},
    {"tee_of_a_rank_outside",
     [](JobOptions& o) {
       o.log_dir = "logs";
       o.tee = parse_stream_choice("1:3");
     },
     "--tee: local rank 1"},
    {"filter_outside",
     [](JobOptions& o) {
       o.shown = {0, 2};
     },
     "--local-ranks-filter: local rank 2"},
};

INSTANTIATE_TEST_SUITE_P(Flags, ValidateBadJob, testing::ValuesIn(kCases),
                         [](const auto& param_info) { return param_info.param.name; });

}  // namespace
}  // namespace lockstep::launch
