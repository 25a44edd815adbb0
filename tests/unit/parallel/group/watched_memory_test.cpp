#include "lockstep/parallel/group/watched_memory.h"

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lockstep/core/backend/self/self_backend.h"
#include "lockstep/parallel/group/process_group.h"

namespace lockstep::group {
namespace {

WatchedRange range_of(const at::Tensor& tensor) { return {tensor.data_ptr(), tensor.nbytes()}; }

class WatchedMemory : public testing::Test {
 protected:
  void watch(const std::vector<WatchedRange>& ranges) {
    watch_.emplace(ranges, [this](const WatchedReduction& seen) {
      seen_ += std::string(seen.call.function) + " of " + std::to_string(seen.index) +
               (seen.reduction.op == ReduceOp::kAvg ? " avg;" : ";");
    });
  }

  ProcessGroup group_{Communicator::create(make_self_backend(), {})};
  std::optional<MemoryWatch> watch_;
  std::string seen_;
};

TEST_F(WatchedMemory, EveryReductionOfItIsTold) {
  at::Tensor tensor = at::ones({8});
  watch({range_of(tensor)});
  group_.all_reduce(tensor);
  group_.reduce(tensor, 0, ReduceOp::kAvg);
  group_.all_reduce_coalesced({at::ones({2}), tensor});
  group_.all_reduce_async(tensor).wait();
  group_.reduce_async(tensor, 0).wait();
  group_.all_reduce_coalesced_async({tensor}).wait();
  EXPECT_EQ(seen_,
            "all_reduce of 0;reduce of 0 avg;all_reduce_coalesced of 0;all_reduce_async of 0;reduce_async of 0;"
            "all_reduce_coalesced_async of 0;");
}

TEST_F(WatchedMemory, OtherOperationsAndTheCommunicatorAreNot) {
  at::Tensor tensor = at::ones({8});
  watch({range_of(tensor)});
  group_.broadcast(tensor, 0);
  at::Tensor gathered = at::empty({8});
  group_.all_gather(gathered, tensor);
  group_.communicator().all_reduce(tensor.data_ptr(), tensor.data_ptr(), 8, DType::kFloat32);
  EXPECT_EQ(seen_, "");
}

TEST_F(WatchedMemory, OneByteInARangeIsEnough) {
  at::Tensor flat = at::zeros({100}, at::kByte);
  watch({range_of(flat.slice(0, 40, 50)), range_of(flat.slice(0, 10, 20)), range_of(flat.slice(0, 30, 30)),
         range_of(flat.slice(0, 0, 60))});
  const auto reduce = [&](std::int64_t begin, std::int64_t end) {
    seen_.clear();
    at::Tensor part = flat.slice(0, begin, end);
    group_.all_reduce(part, ReduceOp::kMax);
    return seen_;
  };
  EXPECT_EQ(reduce(0, 100), "all_reduce of 0;") << "the first of the list";
  EXPECT_EQ(reduce(49, 100), "all_reduce of 0;");
  EXPECT_EQ(reduce(19, 40), "all_reduce of 1;");
  EXPECT_EQ(reduce(20, 40), "all_reduce of 3;");
  EXPECT_EQ(reduce(60, 100), "");
  EXPECT_EQ(reduce(45, 45), "");
}

TEST_F(WatchedMemory, NothingIsToldAfterItsEnd) {
  at::Tensor tensor = at::ones({8});
  watch({range_of(tensor)});
  EXPECT_EQ(watch_count.load(), 1);
  watch_.reset();
  EXPECT_EQ(watch_count.load(), 0);
  group_.all_reduce(tensor);
  EXPECT_EQ(seen_, "");
}

TEST_F(WatchedMemory, WhatTheWatcherThrowsStopsTheReduction) {
  at::Tensor tensor = at::ones({2});
  const MemoryWatch refuse({range_of(tensor)}, [](const WatchedReduction&) { throw std::runtime_error("no"); });
  EXPECT_THROW(group_.all_reduce(tensor), std::runtime_error);
}

}  // namespace
}  // namespace lockstep::group
