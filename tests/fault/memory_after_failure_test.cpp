// A rank that has given up owns its backend memory again: what it writes there next must never pass for a result of a
// peer that was still reading.

#include <algorithm>
#include <chrono>
#include <iostream>
#include <numeric>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/core/comm/init.h"
#include "lockstep/core/comm/subgroup.h"
#include "tests/support/free_port.h"
#include "tests/support/processes.h"

namespace lockstep {
namespace {

using support::Arguments;

constexpr std::ptrdiff_t kCount = 4u << 20;
constexpr float kRight = 1.0F;
constexpr float kLater = -1.0F;

/// What rank 0 aborts; the others read rank 0's memory in it.
Work begin(const std::string& what, Communicator& group, float* in, float* out) {
  constexpr DType kFloat = DType::kFloat32;
  if (what == "all_reduce") return group.all_reduce_async(in, out, kCount, kFloat);
  if (what == "scatter") return group.scatter_async(in, out, kCount, kFloat, 0);
  if (group.rank() == 0) return group.send_async(in, kCount, kFloat, 1);
  return group.rank() == 1 ? group.recv_async(in, kCount, kFloat, 0) : Work();
}

/// A new group each round; rank 0 gives up somewhere in the operation and writes to its memory. Arguments: the
/// operation, the backend, rounds, and how long the others compute (ms) before they wait.
LOCKSTEP_WORKER(gives_up_and_writes_to_its_memory) {
  const std::string& what = arguments.at(0);
  InitOptions options;
  options.backend = arguments.at(1);
  if (options.backend == "hier") options.host_ids = {"first", "first", "second", "second"};
  const int rounds = std::stoi(arguments.at(2));
  const std::chrono::milliseconds busy(std::stoi(arguments.at(3)));
  const Job job = init_from_environment(options);
  Communicator& world = *job.communicator;
  std::vector<int> all(static_cast<std::size_t>(world.world_size()));
  std::iota(all.begin(), all.end(), 0);
  int succeeded = 0;
  int wrong = 0;
  for (int round = 0; round < rounds; ++round) {
    const auto group = new_group(world, all);
    const std::ptrdiff_t inputs = what == "scatter" ? world.world_size() * kCount : kCount;
    BackendMemory input = group->allocate(static_cast<std::size_t>(inputs) * sizeof(float));
    BackendMemory output = group->allocate(kCount * sizeof(float));
    auto* const in = static_cast<float*>(input.data);
    auto* const out = static_cast<float*>(output.data);
    std::fill_n(in, inputs, world.rank() == 0 || what == "all_reduce" ? kRight : 0.0F);
    std::fill_n(out, kCount, 0.0F);
    world.barrier();
    try {
      Work work = begin(what, *group, in, out);
      if (world.rank() == 0) {
        const auto until = Clock::now() + std::chrono::microseconds(100 * round);
        while (Clock::now() < until && !work.done()) {
        }
        group->abort("rank 0 has changed its mind");
        try {
          work.wait();
        } catch (const AbortedError&) {  // The memory is this rank's again, as it is when all went well.
        }
        std::fill_n(in, inputs, kLater);
      } else {
        std::this_thread::sleep_for(busy);
        work.wait();
        ++succeeded;
        const bool receives = what != "message" || world.rank() == 1;
        const float* const from_rank_0 = what == "message" ? in : out;
        const float expected = what == "all_reduce" ? static_cast<float>(world.world_size()) * kRight : kRight;
        wrong += receives && std::count(from_rank_0, from_rank_0 + kCount, expected) != kCount ? 1 : 0;
      }
    } catch (const Error&) {
    }
    world.barrier();  // Memory is freed when nobody reads it anymore.
  }
  std::cout << "SUCCEEDED " << succeeded << " WRONG " << wrong << std::endl;
  return 0;
}

using Parameter = std::pair<std::string, std::string>;

class MemoryAfterFailure : public ::testing::TestWithParam<Parameter> {};

TEST_P(MemoryAfterFailure, IsNobodysResult) {
  const auto& [backend, operation] = GetParam();
  // MPI goes on sending what was given up when the receiver next calls it, however late that is.
  const bool mpi = backend == "mpi";
  const Arguments how = {operation, backend, mpi ? "4" : "40", mpi ? "700" : "0"};
  if (!mpi) {
    const auto run = support::run_processes(backend == "hier" ? 4 : 2, "gives_up_and_writes_to_its_memory", how);
    ASSERT_TRUE(run.ok()) << run;
    for (const auto& end : run.ranks) EXPECT_TRUE(end.out.ends_with(" WRONG 0\n")) << run;
    return;
  }
  if (*LOCKSTEP_MPIRUN == '\0') GTEST_SKIP() << "no mpirun.openmpi is installed";
  Arguments command = {LOCKSTEP_MPIRUN, "--allow-run-as-root", "--oversubscribe", "-np", "2"};
  const Arguments worker = support::worker_command("gives_up_and_writes_to_its_memory", how);
  command.insert(command.end(), worker.begin(), worker.end());
  support::ProcessOptions options;
  options.tell_ranks = false;
  options.environment = {{"MASTER_PORT", std::to_string(support::free_port())},
                         {"ASAN_OPTIONS", "detect_leaks=0"}};  // MPI's own
  const auto end = support::run_program(command, options);
  ASSERT_TRUE(end.ok()) << "exit code " << end.exit_code << "\n" << end.out << end.err;
  EXPECT_EQ(std::ranges::count(end.out, '\n'), 2) << end.out;  // One line a rank.
  for (std::istringstream lines(end.out); !lines.eof();) {
    std::string line;
    std::getline(lines, line);
    EXPECT_TRUE(line.empty() || line.ends_with(" WRONG 0")) << end.out;
  }
}

std::vector<Parameter> parameters() {
  std::vector<Parameter> all;
  for (const std::string backend : {"shm", "gloo", "hier", "mpi"}) {
    if ((backend == "gloo" || backend == "hier") && !LOCKSTEP_TEST_WITH_GLOO) continue;
    for (const std::string operation : {"message", "all_reduce", "scatter"}) all.emplace_back(backend, operation);
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Operations, MemoryAfterFailure, ::testing::ValuesIn(parameters()),
                         [](const auto& each) { return each.param.first + "_" + each.param.second; });

}  // namespace
}  // namespace lockstep
