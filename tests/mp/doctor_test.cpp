// `lockstep doctor` in real jobs.

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/mp/exact_sum.h"
#include "tests/support/free_port.h"

namespace lockstep::mp {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

/// How many CPUs the tests have is the machine's affair, so here nothing is bound and threads are told; so is whether
/// its OpenBLAS knows the CPU.
ProcessOptions unbound() {
  ProcessOptions options;
  options.environment = {{"OMP_NUM_THREADS", "1"}, {"LOCKSTEP_AFFINITY", "none"}, {"OPENBLAS_CORETYPE", "Haswell"}};
  return options;
}

ProcessEnd doctor_of(int ranks, const Arguments& flags = {}, const ProcessOptions& options = unbound()) {
  return support::run_program(joined({{LOCKSTEP_PROGRAM, "run", "--quiet", "--no-prefix", "--nproc-per-node",
                                       std::to_string(ranks), "--", LOCKSTEP_PROGRAM, "doctor"},
                                      flags}),
                              options);
}

std::set<std::string> kinds_of(const json& page) {
  std::set<std::string> kinds;
  for (const json& problem : page["problems"]) kinds.insert(problem["problem"].get<std::string>());
  return kinds;
}

/// Of a host with `ranks` ranks: what depends on the machine that runs this test.
std::set<std::string> expected_kinds(const json& page, int ranks) {
  const double quota = page["ranks"][0]["quota"].get<double>();
  int cpus = static_cast<int>(page["ranks"][0]["cpus"].size());
  if (quota > 0) cpus = std::min(cpus, std::max(1, static_cast<int>(quota)));
  return ranks > cpus ? std::set<std::string>{"too_many_ranks"} : std::set<std::string>{};
}

TEST(Doctor, OfOneTwoAndThreeRanksAsJson) {
  for (const int ranks : {1, 2, 3}) {
    const ProcessEnd end = doctor_of(ranks, {"--json"});
    ASSERT_EQ(lines_of(end.out).size(), 1u) << end.out << end.err;
    const json page = json::parse(end.out);
    EXPECT_EQ(page["backend"], ranks == 1 ? "self" : "shm");
    EXPECT_EQ(page["world_size"], ranks);
    ASSERT_EQ(page["hosts"].size(), 1u);
    EXPECT_EQ(page["hosts"][0]["ranks"].size(), static_cast<std::size_t>(ranks));
    ASSERT_EQ(page["ranks"].size(), static_cast<std::size_t>(ranks));
    for (int rank = 0; rank < ranks; ++rank) {
      const json& facts = page["ranks"][static_cast<std::size_t>(rank)];
      EXPECT_EQ(facts["rank"], rank);
      EXPECT_EQ(facts["local_rank"], rank);
      EXPECT_EQ(facts["launcher"], "lockstep");
      EXPECT_EQ(facts["has_token"], true);
      EXPECT_EQ(facts["omp_num_threads"], "1");
      EXPECT_GT(facts["store_us"].get<double>(), 0);
      EXPECT_THAT(facts["build"].get<std::string>(), HasSubstr("backends self shm"));
      // One kernel, one clock: off by no more than the measurement is unsure of.
      EXPECT_LE(std::abs(facts["clock_us"].get<double>()), facts["clock_error_us"].get<double>() + 1);
    }
    ASSERT_EQ(page["links"].size(), ranks > 1 ? 1u : 0u);
    if (ranks > 1) {
      EXPECT_EQ(page["links"][0]["ranks"], (json{0, 1}));
      EXPECT_EQ(page["links"][0]["inside_host"], true);
      EXPECT_GT(page["links"][0]["latency_us"].get<double>(), 0);
      EXPECT_GT(page["links"][0]["gigabytes_per_s"].get<double>(), 0);
    }
    EXPECT_EQ(kinds_of(page), expected_kinds(page, ranks)) << end.out;
    EXPECT_EQ(end.exit_code, page["problems"].empty() ? 0 : 1);
  }
}

TEST(Doctor, OfOneTwoAndThreeRanksForPeople) {
  for (const int ranks : {1, 2, 3}) {
    const ProcessEnd end = doctor_of(ranks);
    const std::string backend = ranks == 1 ? "self" : "shm";
    EXPECT_THAT(end.out, HasSubstr(std::to_string(ranks) + (ranks == 1 ? " rank" : " ranks") + " on 1 host, backend " +
                                   backend + ", environment of lockstep\nchosen because: "));
    EXPECT_THAT(end.out, AllOf(HasSubstr("\nhosts\n"), HasSubstr("\nranks\n")));
    EXPECT_EQ(end.out.find("\nlinks (") != std::string::npos, ranks > 1) << end.out;
    EXPECT_EQ(end.exit_code == 0, end.out.find("\nno problems found\n") != std::string::npos) << end.out;
  }
}

TEST(Doctor, AloneIsAWorldOfOne) {
  const ProcessEnd end = support::run_program({LOCKSTEP_PROGRAM, "doctor"}, unbound());
  EXPECT_EQ(end.exit_code, 0) << end.err;
  EXPECT_THAT(end.out, AllOf(HasSubstr("1 rank on 1 host, backend self\n"), HasSubstr("no problems found\n")));
}

TEST(Doctor, SeesWhichKernelsOpenBlasComputesWith) {
  ProcessOptions options;
  options.environment = {{"OPENBLAS_CORETYPE", "Prescott"}};
  const json page = json::parse(support::run_program({LOCKSTEP_PROGRAM, "doctor", "--json"}, options).out);
  const json& facts = page["ranks"][0];
  if (facts["blas"] == "") GTEST_SKIP() << "no OpenBLAS on this machine";
  if (facts["simd"].get<std::string>().find("AVX") == std::string::npos) GTEST_SKIP() << "a CPU without AVX2";
  EXPECT_EQ(facts["blas"], "Prescott");
  EXPECT_EQ(kinds_of(page), std::set<std::string>{"slow_blas"});
}

TEST(Doctor, RanksThatDoNotComeTogether) {
  ProcessOptions options;
  options.environment = {{"RANK", "0"},
                         {"WORLD_SIZE", "2"},
                         {"MASTER_PORT", std::to_string(support::free_port())},
                         {"LOCKSTEP_INIT_TIMEOUT", "0.3"}};
  const ProcessEnd end = support::run_program({LOCKSTEP_PROGRAM, "doctor"}, options);
  EXPECT_EQ(end.exit_code, 1);
  EXPECT_EQ(end.out, "");
  EXPECT_THAT(end.err, AllOf(HasSubstr("lockstep doctor: rank 0/2"), HasSubstr("rank(s) 1")));
  EXPECT_EQ(lines_of(end.err).size(), 1u) << end.err;
}

}  // namespace
}  // namespace lockstep::mp
