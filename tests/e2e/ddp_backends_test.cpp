// Ranks train as one process does, over each backend and at each world size: random graphs that between them have
// every feature.

#include <iostream>
#include <set>

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/comm/init.h"
#include "tests/support/free_port.h"
#include "tests/support/processes.h"
#include "tests/support/random_training.h"

namespace lockstep {
namespace {

using support::Arguments;
using support::GraphSpec;

/// The first of all seeds that have something new.
std::vector<GraphSpec> graphs_with_every_feature(int world) {
  std::set<std::string> seen;
  std::vector<GraphSpec> graphs;
  for (unsigned seed = 0; seed < 200; ++seed) {
    const GraphSpec spec = support::random_graph_spec(seed, world);
    const std::size_t before = seen.size();
    for (const std::string& feature : support::features_of(spec)) seen.insert(feature);
    if (seen.size() > before) graphs.push_back(spec);
  }
  return graphs;
}

/// `hosts` beside the backend: ranks are told that they are on two.
LOCKSTEP_WORKER(trains_every_feature) {
  at::set_num_threads(1);
  const RankEnvironment environment = read_rank_environment();
  InitOptions options;
  for (int rank = 0; arguments[0] == "hosts" && rank < environment.world_size; ++rank) {
    options.host_ids.push_back(rank < (environment.world_size + 1) / 2 ? "first" : "second");
  }
  const Job job = init_from_environment(options);
  const auto group = std::make_shared<ProcessGroup>(job.communicator, job.environment, job.store);
  for (const GraphSpec& spec : graphs_with_every_feature(group->world_size())) {
    const auto expected = support::train_random_graph_alone(spec)[static_cast<std::size_t>(group->rank())];
    const std::string text = difference(spec, expected, support::train_random_graph(spec, group));
    if (text.empty()) continue;
    std::cerr << spec << ": " << text << std::endl;
    return 1;
  }
  std::cout << job.communicator->backend_name() << std::endl;
  return 0;
}

using Backend = std::tuple<const char*, int>;
class DdpBackends : public ::testing::TestWithParam<Backend> {};
INSTANTIATE_TEST_SUITE_P(Worlds, DdpBackends,
                         ::testing::Combine(::testing::Values("shm", "gloo", "mpi", "hier"),
                                            ::testing::Values(1, 2, 3, 4)),
                         [](const auto& instance) {
                           return std::string(std::get<0>(instance.param)) + "_" +
                                  std::to_string(std::get<1>(instance.param));
                         });

TEST_P(DdpBackends, TrainAsOneProcessDoes) {
  const auto [backend, world] = GetParam();
  support::ProcessOptions options;
  options.deadline = std::chrono::seconds(100);
  options.environment = {{"LOCKSTEP_BACKEND", backend}, {"ASAN_OPTIONS", "detect_leaks=0"}};  // Leaks of MPI's own.
  if (std::string(backend) != "mpi") {
    if (std::string(backend) == "hier" && world == 1) GTEST_SKIP() << "one rank is on one host";
    const Arguments where = {std::string(backend) == "hier" ? "hosts" : "host"};
    const auto result = support::run_processes(world, "trains_every_feature", where, options);
    EXPECT_TRUE(result.ok()) << result;
    EXPECT_EQ(result.ranks[0].out, std::string(backend) + "\n");
    return;
  }
  if (*LOCKSTEP_MPIRUN == '\0') GTEST_SKIP() << "no mpirun.openmpi is installed";
  Arguments command = {LOCKSTEP_MPIRUN, "--allow-run-as-root", "--oversubscribe", "-np", std::to_string(world)};
  const Arguments worker = support::worker_command("trains_every_feature", {"host"});
  command.insert(command.end(), worker.begin(), worker.end());
  options.tell_ranks = false;
  options.environment.emplace_back("MASTER_PORT", std::to_string(support::free_port()));
  const auto end = support::run_program(command, options);
  EXPECT_TRUE(end.ok()) << "exit code " << end.exit_code << "\n" << end.out << end.err;
  EXPECT_THAT(end.out, ::testing::HasSubstr("mpi\n"));
}

}  // namespace
}  // namespace lockstep
