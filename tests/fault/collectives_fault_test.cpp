// A rank is killed or stopped in the middle of collectives: every survivor gets the right error for the right rank, in
// time, and nothing is left behind.

#include <algorithm>
#include <csignal>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/comm/init.h"
#include "tests/support/dev_shm.h"
#include "tests/support/processes.h"

namespace lockstep {
namespace {

using support::Arguments;
using support::ProcessOptions;
using support::ProcessResult;
using support::shared_memory_files;
using ::testing::HasSubstr;

constexpr int kRanks = 4;
constexpr std::size_t kMaxCount = 300000;  // 1.2 MB of float32: several staged pieces

/// The k-th operation of the run, alike on all ranks: any kind, any size, either memory, waited for or left in flight.
void one_operation(Communicator& communicator, std::mt19937& random, float* shared, std::vector<float>& heap,
                   std::vector<Work>& in_flight) {
  const auto pick = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  const std::size_t count = pick(3) == 0 ? pick(kMaxCount / kRanks) : pick(2000);
  const std::size_t kind = pick(6);
  float* const data = pick(2) == 0 ? shared : heap.data();
  float* const result = data + kMaxCount;
  const int root = static_cast<int>(pick(kRanks));
  switch (kind) {
    case 0: return communicator.barrier();
    case 1: return communicator.broadcast(data, count, DType::kFloat32, root);
    case 2: return communicator.all_reduce(data, data, count, DType::kFloat32, ReduceOp::kMax);
    case 3: return communicator.reduce_scatter(data, result, count, DType::kFloat32, ReduceOp::kMax);
    case 4: return communicator.all_gather(data, result, count, DType::kFloat32);
    default:
      in_flight.push_back(communicator.all_reduce_async(data, data, count, DType::kFloat32, ReduceOp::kMax));
      if (in_flight.size() > 3) {
        in_flight.front().wait();
        in_flight.erase(in_flight.begin());
      }
  }
}

/// arguments: seed, victim, its last operation, signal, timeout in milliseconds.
LOCKSTEP_WORKER(operations_until_somebody_fails) {
  const int victim = std::stoi(arguments[1]);
  const int last = std::stoi(arguments[2]);
  InitOptions options;
  options.timeout = std::chrono::milliseconds(std::stoi(arguments[4]));
  const Job job = init_from_environment(options);
  Communicator& communicator = *job.communicator;
  std::mt19937 random(static_cast<unsigned>(std::stoul(arguments[0])));
  const BackendMemory memory = communicator.allocate(5 * kMaxCount * sizeof(float));
  std::vector<float> heap(5 * kMaxCount);
  std::vector<Work> in_flight;
  const auto report = [&](const char* type, int rank, const std::string& text) {
    std::cout << "ERROR " << type << ' ' << rank << std::endl;
    std::cerr << text << std::endl;
    try {
      communicator.barrier();
    } catch (const AbortedError&) {
      return 0;  // A failed communicator says so, at once.
    }
    return 1;
  };
  try {
    for (int k = 0; k < 1000000; ++k) {
      if (communicator.rank() == victim && k == last) std::raise(std::stoi(arguments[3]));
      one_operation(communicator, random, static_cast<float*>(memory.data), heap, in_flight);
    }
  } catch (const PeerError& error) {
    return report("PeerError", error.rank(), error.what());
  } catch (const TimeoutError& error) {
    return report("TimeoutError", error.waiting_for(), error.what());
  } catch (const Error& error) {
    return report("other", -1, error.what());
  }
  return 1;
}

ProcessResult run(unsigned seed, int victim, int last, int signal, int timeout_ms) {
  ProcessOptions options;
  options.deadline = std::chrono::seconds(60);
  int reports = 0;
  options.on_line = [&](launch::Supervisor& supervisor, const launch::OutputLine& line) {
    // A stopped process never ends by itself: once all survivors have spoken, it may go.
    if (line.text.substr(0, 6) == "ERROR " && ++reports == kRanks - 1) supervisor.signal(victim, SIGKILL);
  };
  return support::run_processes(kRanks, "operations_until_somebody_fails",
                                {std::to_string(seed), std::to_string(victim), std::to_string(last),
                                 std::to_string(signal), std::to_string(timeout_ms)},
                                options);
}

void expect_survivors_say(const ProcessResult& result, int victim, const std::string& type) {
  EXPECT_FALSE(result.deadline_passed) << result;
  for (const auto& end : result.ranks) {
    if (end.rank == victim) {
      EXPECT_EQ(end.signal, SIGKILL) << result;
      continue;
    }
    EXPECT_TRUE(end.ok()) << result;
    EXPECT_THAT(end.out, HasSubstr("ERROR " + type + " " + std::to_string(victim) + "\n")) << result;
    EXPECT_THAT(end.err, HasSubstr("rank " + std::to_string(victim))) << result;
  }
}

class CollectivesFault : public ::testing::TestWithParam<int> {};

// A deadline of ten minutes: that a dead peer is noticed has nothing to do with it.
TEST_P(CollectivesFault, AKilledRankIsNamedByEverySurvivor) {
  const auto before = shared_memory_files();
  const unsigned seed = static_cast<unsigned>(GetParam());
  std::mt19937 random(seed * 7919u + 1u);
  for (int run_index = 0; run_index < 5; ++run_index) {
    const int victim = static_cast<int>(random() % kRanks);
    const int last = static_cast<int>(random() % 60);
    SCOPED_TRACE("seed " + std::to_string(random()) + " victim " + std::to_string(victim) + " operation " +
                 std::to_string(last));
    expect_survivors_say(run(seed, victim, last, SIGKILL, 600000), victim, "PeerError");
  }
  EXPECT_EQ(shared_memory_files(), before);
}

TEST_P(CollectivesFault, AStoppedRankIsNamedAtTheDeadline) {
  const auto before = shared_memory_files();
  const unsigned seed = static_cast<unsigned>(GetParam()) + 100u;
  std::mt19937 random(seed);
  const int victim = static_cast<int>(random() % kRanks);
  const int last = static_cast<int>(random() % 60);
  SCOPED_TRACE("victim " + std::to_string(victim) + " operation " + std::to_string(last));
  expect_survivors_say(run(seed, victim, last, SIGSTOP, 1000), victim, "TimeoutError");
  EXPECT_EQ(shared_memory_files(), before);
}

INSTANTIATE_TEST_SUITE_P(Seeds, CollectivesFault, ::testing::Range(0, 4));

}  // namespace
}  // namespace lockstep
