#include <sys/stat.h>

#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/error.h"
#include "lockstep/core/io/file.h"
#include "tests/unit/core/base/scoped_environment.h"

namespace lockstep {
namespace {

using Variables = std::map<std::string, std::string>;

struct Case {
  std::string name;
  Variables variables;
  std::string source;
  int rank, world_size, local_rank, local_world_size, node_rank;
  std::string master_address;
  int master_port;
};

class ReadRankEnvironment : public testing::TestWithParam<Case> {};

TEST_P(ReadRankEnvironment, SaysWhoThisProcessIs) {
  const Case& expected = GetParam();
  ScopedEnvironment environment;
  for (const auto& [name, value] : expected.variables) environment.set(name, value);
  const RankEnvironment env = read_rank_environment();
  EXPECT_EQ(env.source, expected.source);
  EXPECT_EQ(env.rank, expected.rank);
  EXPECT_EQ(env.world_size, expected.world_size);
  EXPECT_EQ(env.local_rank, expected.local_rank);
  EXPECT_EQ(env.local_world_size, expected.local_world_size);
  EXPECT_EQ(env.node_rank, expected.node_rank);
  EXPECT_EQ(env.master_address, expected.master_address);
  EXPECT_EQ(env.master_port, expected.master_port);
}

const std::vector<Case> kCases = {
    {"nothing", {}, "none", 0, 1, 0, 1, 0, "", 0},
    {"nothing_but_an_address",
     {{"MASTER_ADDR", "node0"}, {"MASTER_PORT", "1234"}},
     "none",
     0,
     1,
     0,
     1,
     0,
     "node0",
     1234},
    {"torchrun",
     {{"RANK", "5"},
      {"WORLD_SIZE", "8"},
      {"LOCAL_RANK", "1"},
      {"LOCAL_WORLD_SIZE", "4"},
      {"GROUP_RANK", "1"},
      {"MASTER_ADDR", "node0"},
      {"MASTER_PORT", "1234"}},
     "torchrun",
     5,
     8,
     1,
     4,
     1,
     "node0",
     1234},
    {"by_hand_on_one_host", {{"RANK", "1"}, {"WORLD_SIZE", "2"}}, "torchrun", 1, 2, 1, 2, 0, "127.0.0.1", 29500},
    {"by_hand_on_the_loopback",
     {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "localhost"}, {"MASTER_PORT", "1234"}},
     "torchrun",
     1,
     2,
     1,
     2,
     0,
     "localhost",
     1234},
    {"by_hand_on_several_hosts",
     {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "node0"}},
     "torchrun",
     1,
     2,
     0,
     1,
     1,
     "node0",
     29500},
    {"lockstep",
     {{"RANK", "1"},
      {"WORLD_SIZE", "3"},
      {"LOCAL_RANK", "1"},
      {"LOCAL_WORLD_SIZE", "3"},
      {"GROUP_RANK", "0"},
      {"LOCKSTEP_STORE", "127.0.0.1:4711"}},
     "lockstep",
     1,
     3,
     1,
     3,
     0,
     "127.0.0.1",
     29500},
    {"openmpi_on_one_host",
     {{"OMPI_COMM_WORLD_RANK", "2"},
      {"OMPI_COMM_WORLD_SIZE", "3"},
      {"OMPI_COMM_WORLD_LOCAL_RANK", "2"},
      {"OMPI_COMM_WORLD_LOCAL_SIZE", "3"}},
     "openmpi",
     2,
     3,
     2,
     3,
     0,
     "127.0.0.1",
     29500},
    {"openmpi_on_two_hosts",
     {{"OMPI_COMM_WORLD_RANK", "5"},
      {"OMPI_COMM_WORLD_SIZE", "6"},
      {"OMPI_COMM_WORLD_LOCAL_RANK", "2"},
      {"OMPI_COMM_WORLD_LOCAL_SIZE", "3"}},
     "openmpi",
     5,
     6,
     2,
     3,
     1,
     "",
     0},
    {"mpich",
     {{"PMI_RANK", "1"},
      {"PMI_SIZE", "4"},
      {"MPI_LOCALRANKID", "1"},
      {"MPI_LOCALNRANKS", "4"},
      {"MASTER_PORT", "1234"}},
     "mpich",
     1,
     4,
     1,
     4,
     0,
     "127.0.0.1",
     1234},
    {"pmi_without_local_ranks", {{"PMI_RANK", "1"}, {"PMI_SIZE", "4"}}, "mpich", 1, 4, 0, 1, 1, "", 0},
    {"pmi_from_slurm",
     {{"PMI_RANK", "3"},
      {"PMI_SIZE", "4"},
      {"SLURM_STEP_ID", "0"},
      {"SLURM_PROCID", "3"},
      {"SLURM_NTASKS", "4"},
      {"SLURM_LOCALID", "1"},
      {"SLURM_NODEID", "1"},
      {"SLURM_STEP_TASKS_PER_NODE", "2(x2)"}},
     "mpich",
     3,
     4,
     1,
     2,
     1,
     "",
     0},
    {"slurm_on_one_host",
     {{"SLURM_STEP_ID", "0"},
      {"SLURM_PROCID", "1"},
      {"SLURM_NTASKS", "2"},
      {"SLURM_LOCALID", "1"},
      {"SLURM_NODEID", "0"},
      {"SLURM_NNODES", "1"}},
     "slurm",
     1,
     2,
     1,
     2,
     0,
     "127.0.0.1",
     29500},
    {"slurm_on_two_hosts",
     {{"SLURM_STEP_ID", "0"},
      {"SLURM_PROCID", "5"},
      {"SLURM_NTASKS", "8"},
      {"SLURM_LOCALID", "1"},
      {"SLURM_NODEID", "1"},
      {"SLURM_NNODES", "2"},
      {"SLURM_NTASKS_PER_NODE", "4"},
      {"SLURM_LAUNCH_NODE_IPADDR", "10.0.0.1"}},
     "slurm",
     5,
     8,
     1,
     4,
     1,
     "10.0.0.1",
     29500},
    {"slurm_on_uneven_hosts",
     {{"SLURM_STEP_ID", "0"},
      {"SLURM_PROCID", "9"},
      {"SLURM_NTASKS", "11"},
      {"SLURM_LOCALID", "1"},
      {"SLURM_NODEID", "2"},
      {"SLURM_NNODES", "3"},
      {"SLURM_STEP_TASKS_PER_NODE", "4(x2),3"},
      {"MASTER_ADDR", "node0"}},
     "slurm",
     9,
     11,
     1,
     3,
     2,
     "node0",
     29500},
    {"slurm_batch_script_without_srun",
     {{"SLURM_JOB_ID", "77"},
      {"SLURM_PROCID", "0"},
      {"SLURM_NTASKS", "8"},
      {"SLURM_LOCALID", "0"},
      {"SLURM_NODEID", "0"},
      {"SLURM_NNODES", "2"}},
     "none",
     0,
     1,
     0,
     1,
     0,
     "",
     0},
    {"torchrun_inside_slurm",
     {{"SLURM_STEP_ID", "0"},
      {"SLURM_PROCID", "0"},
      {"SLURM_NTASKS", "1"},
      {"RANK", "1"},
      {"WORLD_SIZE", "2"},
      {"LOCAL_RANK", "1"},
      {"LOCAL_WORLD_SIZE", "2"}},
     "torchrun",
     1,
     2,
     1,
     2,
     0,
     "127.0.0.1",
     29500},
    {"openmpi_before_pmi_and_slurm",
     {{"OMPI_COMM_WORLD_RANK", "1"},
      {"OMPI_COMM_WORLD_SIZE", "2"},
      {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
      {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
      {"PMI_RANK", "0"},
      {"PMI_SIZE", "1"},
      {"SLURM_STEP_ID", "0"},
      {"SLURM_PROCID", "0"},
      {"SLURM_NTASKS", "1"}},
     "openmpi",
     1,
     2,
     1,
     2,
     0,
     "127.0.0.1",
     29500},
};

INSTANTIATE_TEST_SUITE_P(Launchers, ReadRankEnvironment, testing::ValuesIn(kCases),
                         [](const auto& param_info) { return param_info.param.name; });

struct BadCase {
  std::string name;
  Variables variables;
  std::string text;
};

class ReadBadRankEnvironment : public testing::TestWithParam<BadCase> {};

TEST_P(ReadBadRankEnvironment, IsAUsageErrorThatNamesTheVariable) {
  ScopedEnvironment environment;
  for (const auto& [name, value] : GetParam().variables) environment.set(name, value);
  try {
    read_rank_environment();
    FAIL() << "accepted";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr(GetParam().text));
  }
}

const std::vector<BadCase> kBadCases = {
    {"rank_alone", {{"RANK", "0"}}, "RANK=0 is set without WORLD_SIZE"},
    {"size_alone", {{"WORLD_SIZE", "2"}}, "WORLD_SIZE=2 is set without RANK"},
    {"no_number", {{"RANK", "first"}, {"WORLD_SIZE", "2"}}, "RANK='first': expected a whole number"},
    {"negative_rank", {{"RANK", "-1"}, {"WORLD_SIZE", "2"}}, "RANK=-1: expected 0 or more"},
    {"world_of_none", {{"RANK", "0"}, {"WORLD_SIZE", "0"}}, "WORLD_SIZE=0: expected 1 or more"},
    {"rank_outside", {{"RANK", "2"}, {"WORLD_SIZE", "2"}}, "RANK=2 and WORLD_SIZE=2 contradict each other"},
    {"too_large_for_a_rank", {{"RANK", "0"}, {"WORLD_SIZE", "4294967296"}}, "WORLD_SIZE=4294967296"},
    {"local_rank_alone",
     {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "0"}},
     "LOCAL_RANK=0 is set without LOCAL_WORLD_SIZE"},
    {"local_size_alone",
     {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_WORLD_SIZE", "2"}},
     "LOCAL_WORLD_SIZE=2 is set without LOCAL_RANK"},
    {"local_rank_outside",
     {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "1"}},
     "LOCAL_RANK=1 and LOCAL_WORLD_SIZE=1 contradict each other"},
    {"host_larger_than_world",
     {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "3"}},
     "LOCAL_WORLD_SIZE=3: expected at most WORLD_SIZE=2"},
    {"local_rank_before_its_rank",
     {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "2"}},
     "LOCAL_RANK=1 and RANK=0 contradict each other"},
    {"port_outside", {{"MASTER_PORT", "65536"}}, "MASTER_PORT=65536: expected 1 to 65535"},
    {"openmpi_size_alone", {{"OMPI_COMM_WORLD_SIZE", "2"}}, "is set without OMPI_COMM_WORLD_RANK"},
    {"mpich_rank_outside", {{"PMI_RANK", "9"}, {"PMI_SIZE", "2"}}, "PMI_RANK=9 and PMI_SIZE=2 contradict"},
    {"slurm_tasks_unreadable",
     {{"SLURM_STEP_ID", "0"},
      {"SLURM_PROCID", "1"},
      {"SLURM_NTASKS", "2"},
      {"SLURM_LOCALID", "0"},
      {"SLURM_NODEID", "1"},
      {"SLURM_STEP_TASKS_PER_NODE", "1(y2)"}},
     "SLURM_STEP_TASKS_PER_NODE='1(y2)': expected counts"},
};

INSTANTIATE_TEST_SUITE_P(Contradictions, ReadBadRankEnvironment, testing::ValuesIn(kBadCases),
                         [](const auto& param_info) { return param_info.param.name; });

TEST(ReadRankEnvironmentOfAJob, CarriesTokenNameAndRestarts) {
  ScopedEnvironment environment;
  environment.set("LOCKSTEP_JOB_TOKEN", "secret");
  environment.set("TORCHELASTIC_RUN_ID", "job-7");
  environment.set("TORCHELASTIC_RESTART_COUNT", "2");
  const RankEnvironment env = read_rank_environment();
  EXPECT_EQ(env.job_token, "secret");
  EXPECT_EQ(env.run_id, "job-7");
  EXPECT_EQ(env.restart_count, 2);
}

TEST(ReadRankEnvironmentOfAJob, SaysWhereItGuessed) {
  const auto is_given = [](const Variables& variables) {
    ScopedEnvironment environment;
    for (const auto& [name, value] : variables) environment.set(name, value);
    return read_rank_environment().local_is_given;
  };
  EXPECT_FALSE(is_given({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "node0"}}));
  EXPECT_FALSE(is_given({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "localhost"}}));
  EXPECT_FALSE(is_given({{"PMI_RANK", "1"}, {"PMI_SIZE", "4"}}));
  EXPECT_TRUE(is_given({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "0"}, {"LOCAL_WORLD_SIZE", "1"}}));
  EXPECT_TRUE(is_given({{"RANK", "0"}, {"WORLD_SIZE", "1"}}));
  EXPECT_TRUE(is_given({}));
}

TEST(ReadJobToken, ComesFromTheEnvironmentOrAFile) {
  ScopedEnvironment environment;
  EXPECT_EQ(read_job_token(), std::nullopt);
  const io::TempDirectory directory;
  const std::string path = directory.path() + "/token";
  io::write_file_atomic(path, "from the file\n", io::Durability::kCached);
  ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
  environment.set("LOCKSTEP_JOB_TOKEN_FILE", path);
  EXPECT_EQ(read_job_token(), "from the file");
  EXPECT_EQ(read_rank_environment().job_token, "from the file");
  environment.set("LOCKSTEP_JOB_TOKEN", "from the environment");
  EXPECT_EQ(read_job_token(), "from the environment");
  environment.set("LOCKSTEP_JOB_TOKEN", "");
  ASSERT_EQ(::chmod(path.c_str(), 0644), 0);
  EXPECT_THROW(read_job_token(), UsageError);
}

TEST(ReadRankEnvironmentOfAJob, TakesSlurmsJobForAName) {
  ScopedEnvironment environment;
  environment.set("SLURM_STEP_ID", "0");
  environment.set("SLURM_PROCID", "0");
  environment.set("SLURM_NTASKS", "1");
  environment.set("SLURM_LOCALID", "0");
  environment.set("SLURM_JOB_ID", "4711");
  EXPECT_EQ(read_rank_environment().run_id, "4711");
}

}  // namespace
}  // namespace lockstep
