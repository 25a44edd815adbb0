// Programs of ours under srun, in a cluster of one machine that the test starts.

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/mp/exact_sum.h"
#include "tests/mp/slurm_cluster.h"
#include "tests/support/free_port.h"

namespace lockstep::mp {
namespace {

using testing::HasSubstr;

TEST(Slurm, TasksOfSrunMeet) {
  if (const std::string missing = SlurmCluster::missing(); !missing.empty()) GTEST_SKIP() << missing;
  const SlurmCluster cluster;
  ProcessOptions options;
  options.environment = {
      cluster.variable(), {"LOCKSTEP_JOB_TOKEN", "secret"}, {"MASTER_PORT", std::to_string(support::free_port())}};
  const std::string srun = find_installed("srun");

  const ProcessEnd end = support::run_program(joined({{srun, "--ntasks=3"}, exact_sum_command()}), options);
  EXPECT_TRUE(end.ok()) << end.err;
  EXPECT_EQ(lines_of(end.out), lines_on_one_host("slurm", 3));

  // One task a node, and `lockstep run` in it.
  const ProcessEnd nested = support::run_program(
      joined({{srun, "--ntasks=1", LOCKSTEP_PROGRAM, "run", "--quiet", "--no-prefix", "--nproc-per-node", "2", "--"},
              exact_sum_command()}),
      options);
  EXPECT_TRUE(nested.ok()) << nested.err;
  EXPECT_EQ(lines_of(nested.out), lines_on_one_host("lockstep", 2));

  // A batch script's program that srun did not start is a world of one, whatever Slurm says of the job.
  const ProcessEnd alone = support::run_program(
      joined({{"/usr/bin/env", "SLURM_PROCID=0", "SLURM_NTASKS=3", "SLURM_LOCALID=0"}, exact_sum_command()}), options);
  EXPECT_EQ(alone.out, "none rank 0/1 local 0/1 node 0\n") << alone.err;

  const ProcessEnd page = support::run_program({srun, "--ntasks=2", LOCKSTEP_PROGRAM, "doctor"}, options);
  EXPECT_THAT(page.out, HasSubstr("2 ranks on 1 host, backend shm, environment of slurm\n")) << page.err;
}

}  // namespace
}  // namespace lockstep::mp
