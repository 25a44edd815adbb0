#include "lockstep/parallel/group/process_group.h"

#include <cstring>
#include <functional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lockstep/core/base/error.h"
#include "lockstep/parallel/group/dtype_map.h"
#include "tests/unit/core/base/scoped_environment.h"
#include "tests/unit/parallel/group/rank_threads.h"

namespace lockstep {
namespace {

using test::run_rank_threads;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string usage_error(const std::function<void()>& call) {
  try {
    call();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no UsageError";
}

class ProcessGroupWorlds : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Worlds, ProcessGroupWorlds, ::testing::Values(1, 2, 3, 4));

TEST_P(ProcessGroupWorlds, AllReducesEveryDtypeInPlace) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    for (int i = 0; i < kDTypeCount; ++i) {
      const at::ScalarType type = group::to_torch(static_cast<DType>(i));
      at::Tensor tensor = at::full({3, 5}, group->rank() + 1, at::kLong).to(type);
      const at::Tensor expected = at::full({3, 5}, n * (n + 1) / 2, at::kLong).to(type);
      group->all_reduce(tensor);
      EXPECT_TRUE(at::equal(tensor, expected)) << type;
    }
  });
}

TEST_P(ProcessGroupWorlds, AveragesAndTakesScalarsAndEmptyTensors) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    at::Tensor scalar = at::full({}, 2.0 * n * (group->rank() + 1), at::kDouble);
    group->all_reduce(scalar, ReduceOp::kAvg);
    EXPECT_EQ(scalar.template item<double>(), n * (n + 1));
    at::Tensor empty = at::zeros({0, 4});
    group->all_reduce(empty);
    EXPECT_EQ(empty.numel(), 0);
  });
}

TEST_P(ProcessGroupWorlds, BroadcastsFromEveryRoot) {
  run_rank_threads(GetParam(), [](const auto& group) {
    for (int root = 0; root < group->world_size(); ++root) {
      at::Tensor tensor = at::arange(7) + 100 * group->rank();
      group->broadcast(tensor, root);
      EXPECT_TRUE(at::equal(tensor, at::arange(7) + 100 * root));
    }
  });
}

TEST_P(ProcessGroupWorlds, GathersConcatenatedAndStacked) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    const at::Tensor mine = at::full({2, 3}, group->rank(), at::kInt);
    at::Tensor concatenated = at::empty({2 * n, 3}, at::kInt);
    at::Tensor stacked = at::empty({n, 2, 3}, at::kInt);
    group->all_gather(concatenated, mine);
    group->all_gather_async(stacked, mine).wait();
    for (int r = 0; r < n; ++r) EXPECT_TRUE(stacked[r].eq(r).all().template item<bool>());
    EXPECT_TRUE(at::equal(concatenated.view({n, 2, 3}), stacked));
  });
}

TEST_P(ProcessGroupWorlds, ReduceScatterGivesEachRankItsChunk) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    const at::Tensor input = at::arange(5 * n, at::kFloat) * (group->rank() + 1);
    const at::Tensor all = at::arange(5 * n, at::kFloat) * (n * (n + 1) / 2);
    at::Tensor output = at::zeros({5});
    group->reduce_scatter(output, input);
    EXPECT_TRUE(at::equal(output, all.narrow(0, 5 * group->rank(), 5)));
    output.zero_();
    group->reduce_scatter_async(output, input).wait();
    EXPECT_TRUE(at::equal(output, all.narrow(0, 5 * group->rank(), 5)));
  });
}

TEST_P(ProcessGroupWorlds, AsynchronousOperationsFinishInOrder) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    at::Tensor first = at::full({1000}, group->rank() + 1.0);
    at::Tensor second = at::full({1}, group->rank());
    Work sum = group->all_reduce_async(first);
    Work copy = group->broadcast_async(second, n - 1);
    group->progress();
    copy.wait();
    EXPECT_EQ(second.template item<std::int64_t>(), n - 1);
    EXPECT_TRUE(sum.done());
    EXPECT_TRUE(first.eq(n * (n + 1) / 2).all().template item<bool>());
    group->barrier();
  });
}

TEST_P(ProcessGroupWorlds, AllocatesMemoryThatOutlivesTheGroup) {
  run_rank_threads(GetParam(), [](const auto& shared) {
    at::Tensor tensor;
    {
      ProcessGroup group(make_communicator(make_memory_store(), 0, 1));
      tensor = group.allocate(1000, DType::kFloat64);
    }
    EXPECT_EQ(tensor.scalar_type(), at::kDouble);
    EXPECT_TRUE(tensor.eq(0).all().template item<bool>());
    tensor.fill_(3);
    EXPECT_EQ(tensor.sum().template item<double>(), 3000);

    at::Tensor reduced = shared->allocate(37, DType::kFloat32);
    reduced.fill_(shared->rank() + 1);
    shared->all_reduce(reduced);
    const int n = shared->world_size();
    EXPECT_TRUE(reduced.eq(n * (n + 1) / 2).all().template item<bool>());
    EXPECT_EQ(shared->allocate(0, DType::kInt32).numel(), 0);
  });
}

TEST(ProcessGroup, NamesWhatIsWrongWithATensor) {
  ProcessGroup group(make_communicator(make_memory_store(), 0, 1));
  at::Tensor transposed = at::zeros({3, 4}).t();
  EXPECT_THAT(usage_error([&] { group.all_reduce(transposed); }),
              AllOf(HasSubstr("rank 0/1"), HasSubstr("all_reduce: tensor is f32 [4, 3] with strides [1, 4]"),
                    HasSubstr(".contiguous()")));
  at::Tensor complex = at::zeros({2}, at::kComplexFloat);
  EXPECT_THAT(usage_error([&] { group.broadcast(complex, 0); }),
              AllOf(HasSubstr("broadcast: tensor is ComplexFloat [2]"), HasSubstr("f32 f64")));
  at::Tensor sparse = at::zeros({2, 2}).to_sparse();
  EXPECT_THAT(usage_error([&] { group.all_reduce_async(sparse); }),
              AllOf(HasSubstr("(Sparse)"), HasSubstr(".to_dense()")));
  at::Tensor elsewhere = at::zeros({2}, at::kMeta);
  EXPECT_THAT(usage_error([&] { group.all_reduce(elsewhere); }), AllOf(HasSubstr("on meta"), HasSubstr(".cpu()")));
  at::Tensor undefined;
  EXPECT_THAT(usage_error([&] { group.all_reduce(undefined); }), HasSubstr("tensor is undefined"));
  at::Tensor integers = at::zeros({2}, at::kLong);
  EXPECT_NE(usage_error([&] { group.all_reduce(integers, ReduceOp::kAvg); }), "no UsageError");
  EXPECT_NE(usage_error([&] { group.broadcast(integers, 1); }), "no UsageError");
}

TEST(ProcessGroup, NamesSizesThatDoNotFit) {
  ProcessGroup group(make_communicator(make_memory_store(), 0, 1));
  at::Tensor output = at::zeros({7});
  const at::Tensor input = at::zeros({2, 3});
  EXPECT_THAT(usage_error([&] { group.all_gather(output, input); }),
              AllOf(HasSubstr("all_gather: output is f32 [7] and input is f32 [2, 3]"), HasSubstr("6 elements")));
  EXPECT_THAT(usage_error([&] { group.reduce_scatter(output, input); }), HasSubstr("7 elements"));
  at::Tensor doubles = at::zeros({6}, at::kDouble);
  EXPECT_THAT(usage_error([&] { group.all_gather_async(doubles, input); }), HasSubstr("and f32"));
  EXPECT_THAT(usage_error([&] { group.allocate(-1, DType::kFloat32); }), HasSubstr("numel is -1"));
  EXPECT_THAT(usage_error([] { ProcessGroup(nullptr); }), HasSubstr("communicator is null"));
}

TEST(ProcessGroup, AutogradNoticesThatASavedTensorWasOverwritten) {
  ProcessGroup group(make_communicator(make_memory_store(), 0, 1));
  const at::Tensor weight = at::ones({3}, at::requires_grad());
  at::Tensor data = at::ones({3});
  const at::Tensor loss = (weight * data).sum();
  group.all_reduce(data);
  EXPECT_THROW(loss.backward(), c10::Error);
}

TEST(InitProcessGroup, IsAWorldOfOneWithoutALauncher) {
  const ScopedEnvironment environment;
  const auto group = init_process_group();
  EXPECT_EQ(group->rank(), 0);
  EXPECT_EQ(group->world_size(), 1);
  EXPECT_EQ(group->local_world_size(), 1);
  EXPECT_NE(group->store(), nullptr);
  at::Tensor tensor = at::full({4}, 5);
  group->all_reduce(tensor);
  EXPECT_TRUE(tensor.eq(5).all().item<bool>());
}

}  // namespace
}  // namespace lockstep
