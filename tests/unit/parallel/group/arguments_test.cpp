// What is refused, and with which words. A world of two ranks where the number of ranks matters.
#include "lockstep/parallel/group/arguments.h"

#include <functional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lockstep/core/base/error.h"
#include "tests/unit/parallel/group/rank_threads.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string usage_error(const std::function<void()>& call) {
  try {
    call();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no UsageError";
}

/// Runs `body(group)` on two ranks: nothing of it communicates, so that each may say what it likes.
template <typename Body>
void on_two_ranks(const Body& body) {
  test::run_rank_threads(2, [&](const auto& group) {
    body(*group);
    group->barrier();  // A refusal leaves the group usable.
  });
}

TEST(Arguments, EveryFunctionRefusesWhatIsNotDenseByName) {
  ProcessGroup group(make_communicator(make_memory_store(), 0, 1));
  const at::Tensor good = at::zeros({4});
  at::Tensor bad = at::zeros({2, 2}).t();
  at::Tensor output = at::zeros({4});
  const auto refuses = [&](std::string_view text, const std::function<void()>& call) {
    EXPECT_THAT(usage_error(call), AllOf(StartsWith("rank 0/1 group world: "), HasSubstr(std::string(text))));
  };
  refuses("reduce: tensor is f32", [&] { group.reduce(bad, 0); });
  refuses("gather: input is f32", [&] { group.gather(output, bad, 0); });
  refuses("gather: output is f32", [&] { group.gather(bad, good, 0); });
  refuses("scatter: input is f32", [&] { group.scatter(output, bad, 0); });
  refuses("scatter: output is f32", [&] { group.scatter(bad, good, 0); });
  refuses("all_gather: output is f32", [&] { group.all_gather(bad, good, {4}); });
  refuses("reduce_scatter: input is f32", [&] { group.reduce_scatter(output, bad, {4}); });
  refuses("all_to_all: input is f32", [&] { group.all_to_all(output, bad); });
  refuses("all_to_all: output is f32", [&] { group.all_to_all(bad, good, {2}, {4}); });
  refuses("send: tensor is f32", [&] { group.send(bad, 0); });
  refuses("recv: tensor is f32", [&] { group.recv(bad, 0); });
  refuses("reduce_async: tensor is f32", [&] { group.reduce_async(bad, 0); });
  refuses("gather_async: input is f32", [&] { group.gather_async(output, bad, 0); });
  refuses("scatter_async: output is f32", [&] { group.scatter_async(bad, good, 0); });
  refuses("all_gather_async: input is f32", [&] { group.all_gather_async(output, bad, {4}); });
  refuses("reduce_scatter_async: output is f32", [&] { group.reduce_scatter_async(bad, good, {4}); });
  refuses("all_to_all_async: input is f32", [&] { group.all_to_all_async(output, bad); });
  refuses("all_to_all_async: input is f32", [&] { group.all_to_all_async(output, bad, {4}, {2}); });
  refuses("send_async: tensor is f32", [&] { group.send_async(bad, 0); });
  refuses("recv_async: tensor is f32", [&] { group.recv_async(bad, 0); });
}

TEST(Arguments, RootsOutputAndInputMustFit) {
  on_two_ranks([](ProcessGroup& group) {
    at::Tensor four = at::zeros({4});
    const at::Tensor three = at::zeros({3});
    const int me = group.rank();
    EXPECT_THAT(usage_error([&] { group.gather(four, three, me); }),
                HasSubstr("gather: output is f32 [4] and input is f32 [3]; expected output of 6 elements"));
    at::Tensor undefined;
    EXPECT_THAT(usage_error([&] { group.gather(undefined, three, me); }), HasSubstr("output is undefined"));
    EXPECT_THAT(usage_error([&] { group.scatter(four, three, me); }), HasSubstr("input of 8 elements"));
    EXPECT_THAT(usage_error([&] { group.scatter(four, undefined, me); }), HasSubstr("input is undefined"));
    EXPECT_NE(usage_error([&] { group.gather(four, three, 2); }), "no UsageError");
    EXPECT_NE(usage_error([&] { group.scatter(four, three, -1); }), "no UsageError");
    EXPECT_NE(usage_error([&] { group.reduce(four, 2); }), "no UsageError");
  });
}

TEST(Arguments, CountsMustBeOneARankAndFit) {
  on_two_ranks([](ProcessGroup& group) {
    at::Tensor output = at::zeros({5});
    const at::Tensor input = at::zeros({group.rank() == 0 ? 2 : 3});
    const std::string mine = group.rank() == 0 ? "counts[0] of [3, 2]" : "counts[1] of [3, 2]";
    EXPECT_THAT(usage_error([&] { group.all_gather(output, input, {5}); }),
                HasSubstr("all_gather: counts is [5]; expected 2 sizes, one a rank"));
    EXPECT_THAT(usage_error([&] { group.all_gather(output, input, {6, -1}); }), HasSubstr("0 or more"));
    EXPECT_THAT(usage_error([&] {
                  group.all_gather(output, input, {3, 2});
                }),
                AllOf(HasSubstr("input is f32 ["), HasSubstr("elements, " + mine)));
    at::Tensor six = at::zeros({6});
    EXPECT_THAT(usage_error([&] {
                  group.all_gather(six, input, {2, 3});
                }),
                HasSubstr("output is f32 [6]; expected 5 elements, the sum of counts [2, 3]"));
    at::Tensor integers = at::zeros({5}, at::kInt);
    EXPECT_THAT(usage_error([&] { group.all_gather(integers, input, {2, 3}); }), HasSubstr("the same dtype"));
    at::Tensor chunk = input.clone();
    EXPECT_THAT(usage_error([&] { group.reduce_scatter(chunk, six, {2, 3}); }), HasSubstr("input is f32 [6]"));
    EXPECT_THAT(usage_error([&] { group.reduce_scatter(chunk, six, {2, 3, 1}); }), HasSubstr("expected 2 sizes"));
  });
}

TEST(Arguments, SplitsMustAddUpAndRowsMustAgree) {
  on_two_ranks([](ProcessGroup& group) {
    at::Tensor output = at::zeros({4, 2});
    const at::Tensor input = at::zeros({4, 2});
    const at::Tensor odd = at::zeros({3, 2});
    at::Tensor scalar = at::zeros({});
    EXPECT_THAT(usage_error([&] { group.all_to_all(output, odd); }),
                HasSubstr("input is f32 [3, 2]; expected dim 0 to be a multiple of world_size 2"));
    at::Tensor longer = at::zeros({6, 2});
    EXPECT_THAT(usage_error([&] { group.all_to_all(longer, input); }), HasSubstr("as many elements in both"));
    EXPECT_THAT(usage_error([&] {
                  group.all_to_all(output, input, {2, 2}, {1, 2});
                }),
                HasSubstr("input_split_sizes is [1, 2]; expected sizes that add up to dim 0, 4"));
    EXPECT_THAT(usage_error([&] {
                  group.all_to_all(output, input, {2, 3}, {2, 2});
                }),
                HasSubstr("output_split_sizes is [2, 3]"));
    EXPECT_THAT(usage_error([&] { group.all_to_all(output, input, {4}, {2, 2}); }), HasSubstr("one a rank"));
    EXPECT_THAT(usage_error([&] { group.all_to_all(output, odd, {2, 2}, {}); }), HasSubstr("multiple of world_size"));
    at::Tensor wide = at::zeros({2, 4});
    EXPECT_THAT(usage_error([&] { group.all_to_all(wide, input); }),
                HasSubstr("rows (dims 1 on) of the same number of elements"));
    EXPECT_THAT(usage_error([&] { group.all_to_all(scalar, input); }), HasSubstr("at least one dim"));
    at::Tensor doubles = at::zeros({4, 2}, at::kDouble);
    EXPECT_THAT(usage_error([&] { group.all_to_all(doubles, input); }), HasSubstr("the same dtype"));
  });
}

TEST(Arguments, ListsMustBeOfOneDtypeAndInPairs) {
  on_two_ranks([](ProcessGroup& group) {
    const std::vector<at::Tensor> mixed = {at::zeros({2}), at::zeros({3}), at::zeros({2}, at::kLong)};
    EXPECT_THAT(usage_error([&] { group.all_reduce_coalesced(mixed); }),
                HasSubstr("all_reduce_coalesced: tensors[2] is i64 [2] and tensors[0] is f32 [2]; expected one dtype"));
    EXPECT_THAT(usage_error([&] { group.broadcast_coalesced({}, 0); }),
                HasSubstr("broadcast_coalesced: tensors is empty; expected at least one tensor"));
    EXPECT_THAT(usage_error([&] {
                  group.all_reduce_coalesced_async({at::zeros({2}), at::Tensor()});
                }),
                HasSubstr("tensors[1] is undefined"));
    EXPECT_THAT(usage_error([&] {
                  group.broadcast_coalesced_async({at::zeros({2, 2}).t()}, 0);
                }),
                HasSubstr("tensors[0] is f32 [2, 2] with strides"));
    const std::vector<at::Tensor> inputs = {at::zeros({2}), at::zeros({3})};
    EXPECT_THAT(usage_error([&] { group.all_gather_coalesced({at::zeros({4})}, inputs); }),
                HasSubstr("1 outputs and 2 inputs"));
    EXPECT_THAT(usage_error([&] {
                  group.all_gather_coalesced_async({at::zeros({4}), at::zeros({5})}, inputs);
                }),
                HasSubstr("outputs[1] is f32 [5] and inputs[1] is f32 [3]; expected outputs[1] of 6 elements"));
    EXPECT_THAT(usage_error([&] {
                  group.reduce_scatter_coalesced(inputs, {at::zeros({4}), at::zeros({5})});
                }),
                HasSubstr("expected inputs[1] of 6 elements"));
    EXPECT_THAT(usage_error([&] { group.reduce_scatter_coalesced_async(inputs, {}); }), HasSubstr("inputs is empty"));
  });
}

TEST(Arguments, SubgroupsRefuseRanksThatAreNotOnes) {
  on_two_ranks([](ProcessGroup& group) {
    EXPECT_NE(usage_error([&] { group.new_group({1 - group.rank()}); }), "no UsageError");
    EXPECT_NE(usage_error([&] { group.new_group({0, 1, 2}); }), "no UsageError");
    EXPECT_NE(usage_error([&] { group.new_group({0, 1, 1}); }), "no UsageError");
  });
}

TEST(Arguments, MessagesRefusePeersThatAreNone) {
  on_two_ranks([](ProcessGroup& group) {
    at::Tensor tensor = at::zeros({2});
    EXPECT_NE(usage_error([&] { group.send(tensor, 2); }), "no UsageError");
    EXPECT_NE(usage_error([&] { group.send(tensor, kAnySource); }), "no UsageError");
    EXPECT_NE(usage_error([&] { group.recv(tensor, 2); }), "no UsageError");
    EXPECT_NE(usage_error([&] { group.send(tensor, 1 - group.rank(), -1); }), "no UsageError");
  });
}

TEST(Arguments, ARefusedListIsNotMarkedAsWritten) {
  ProcessGroup group(make_communicator(make_memory_store(), 0, 1));
  const std::vector<at::Tensor> outputs = {at::zeros({2}), at::zeros({3})};
  const auto before = outputs[0]._version();
  EXPECT_NE(usage_error([&] {
              group.all_gather_coalesced(outputs, {at::zeros({2}), at::zeros({4})});
            }),
            "no UsageError");
  EXPECT_EQ(outputs[0]._version(), before);
  group.all_gather_coalesced(outputs, {at::ones({2}), at::ones({3})});
  EXPECT_GT(outputs[0]._version(), before);
}

}  // namespace
}  // namespace lockstep
