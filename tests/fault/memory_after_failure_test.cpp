// A rank that has given up owns its backend memory again: what it writes there next must never pass for a result of a
// peer that was still reading.

#include <algorithm>
#include <chrono>
#include <iostream>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/core/comm/init.h"
#include "lockstep/core/comm/subgroup.h"
#include "tests/support/processes.h"

namespace lockstep {
namespace {

using support::Arguments;

constexpr std::ptrdiff_t kCount = 4u << 20;
constexpr int kRounds = 40;
constexpr float kRight = 1.0F;
constexpr float kLater = -1.0F;

/// What rank 0 aborts; the other rank reads rank 0's memory in it.
Work begin(const std::string& what, Communicator& group, float* in, float* out) {
  constexpr DType kFloat = DType::kFloat32;
  if (what == "all_reduce") return group.all_reduce_async(in, out, kCount, kFloat);
  if (what == "scatter") return group.scatter_async(in, out, kCount, kFloat, 0);
  if (group.rank() == 0) return group.send_async(in, kCount, kFloat, 1);
  return group.recv_async(in, kCount, kFloat, 0);
}

/// A new group each round; rank 0 gives up somewhere in the operation and writes to its memory.
LOCKSTEP_WORKER(gives_up_and_writes_to_its_memory) {
  const std::string& what = arguments.at(0);
  InitOptions options;
  options.backend = arguments.at(1);
  if (options.backend == "hier") options.host_ids = {"first", "second"};
  const Job job = init_from_environment(options);
  Communicator& world = *job.communicator;
  std::vector<int> all(static_cast<std::size_t>(world.world_size()));
  std::iota(all.begin(), all.end(), 0);
  int succeeded = 0;
  int wrong = 0;
  for (int round = 0; round < kRounds; ++round) {
    const auto group = new_group(world, all);
    BackendMemory input = group->allocate(2 * kCount * sizeof(float));
    BackendMemory output = group->allocate(kCount * sizeof(float));
    auto* const in = static_cast<float*>(input.data);
    auto* const out = static_cast<float*>(output.data);
    std::fill_n(in, 2 * kCount, world.rank() == 0 || what == "all_reduce" ? kRight : 0.0F);
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
        std::fill_n(in, 2 * kCount, kLater);
      } else {
        work.wait();
        ++succeeded;
        const float* const from_rank_0 = what == "message" ? in : out;
        const float expected = what == "all_reduce" ? 2 * kRight : kRight;
        wrong += std::count(from_rank_0, from_rank_0 + kCount, expected) == kCount ? 0 : 1;
      }
    } catch (const AbortedError&) {
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
  const auto run = support::run_processes(2, "gives_up_and_writes_to_its_memory", {operation, backend});
  ASSERT_TRUE(run.ok()) << run;
  EXPECT_NE(run.ranks[1].out.find(" WRONG 0\n"), std::string::npos) << run;
}

std::vector<Parameter> parameters() {
  std::vector<Parameter> all;
  for (const std::string backend : {"shm", "gloo", "hier"}) {
    if (backend != "shm" && !LOCKSTEP_TEST_WITH_GLOO) continue;
    for (const std::string operation : {"message", "all_reduce", "scatter"}) all.emplace_back(backend, operation);
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Operations, MemoryAfterFailure, ::testing::ValuesIn(parameters()),
                         [](const auto& each) { return each.param.first + "_" + each.param.second; });

}  // namespace
}  // namespace lockstep
