// As many ranks on one host as a large machine has cores, on however few there are here.

#include <vector>

#include <gtest/gtest.h>

#include "lockstep/core/comm/init.h"
#include "lockstep/core/comm/subgroup.h"
#include "tests/support/processes.h"

namespace lockstep {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kRanks = 16;  // A sanitizer's shadow memory is the limit.
#else
constexpr int kRanks = 64;
#endif

/// Sums 0 + 1 + ... over all ranks, element by element shifted by the index.
int check_sum(Communicator& communicator, float* data, std::size_t count) {
  const int rank = communicator.rank();
  const int world = communicator.world_size();
  for (std::size_t i = 0; i < count; ++i) data[i] = static_cast<float>(rank) + static_cast<float>(i % 7);
  communicator.all_reduce(data, data, count, DType::kFloat32);
  for (std::size_t i = 0; i < count; ++i) {
    if (data[i] !=
        static_cast<float>(world * (world - 1) / 2) + static_cast<float>(world) * static_cast<float>(i % 7)) {
      return 1;
    }
  }
  return 0;
}

LOCKSTEP_WORKER(one_of_many) {
  const Job job = init_from_environment();
  Communicator& communicator = *job.communicator;
  const int rank = communicator.rank();
  std::vector<float> heap(50'003);
  const BackendMemory memory = communicator.allocate(heap.size() * sizeof(float));
  int wrong = 0;
  for (const std::size_t count : {std::size_t{1}, std::size_t{1000}, heap.size()}) {
    wrong += check_sum(communicator, heap.data(), count);
    wrong += check_sum(communicator, static_cast<float*>(memory.data), count);
  }
  const auto neighbours = split(communicator, rank / 8, rank);
  wrong += check_sum(*neighbours, heap.data(), 1000);
  Work to_right = communicator.send_async(&rank, 1, DType::kInt32, (rank + 1) % kRanks);
  int left = -1;
  communicator.recv(&left, 1, DType::kInt32, (rank + kRanks - 1) % kRanks);
  to_right.wait();
  wrong += left != (rank + kRanks - 1) % kRanks;
  communicator.barrier();
  return wrong;
}

TEST(ManyRanks, WorkOnOneHost) {
  support::ProcessOptions options;
  options.deadline = std::chrono::seconds(100);
  const auto result = support::run_processes(kRanks, "one_of_many", {}, options);
  EXPECT_TRUE(result.ok()) << result;
}

}  // namespace
}  // namespace lockstep
