// Values, and gradients against finite differences of the sum of all ranks' losses, in float64.
#include "lockstep/parallel/group/functional.h"

#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lockstep/core/base/error.h"
#include "tests/unit/parallel/group/rank_threads.h"

namespace lockstep {
namespace {

using functional::Group;
using functional::Sizes;
using test::run_rank_threads;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Form = std::function<at::Tensor(const at::Tensor&, const Group&)>;
using Shape = std::function<std::vector<std::int64_t>(int rank, int world_size)>;

/// Numbers without a pattern, other ones on each rank, the same in each run.
at::Tensor numbers(at::IntArrayRef shape, int seed) {
  const at::Tensor index = at::arange(at::empty(shape).numel(), at::kDouble);
  return at::sin(index * 1.7 + seed * 2.3 + 0.4).view(shape);
}

/// This rank's loss: every element of the result has a weight of its own.
at::Tensor loss_of(const at::Tensor& output, int rank) {
  const at::Tensor weight = numbers(output.sizes(), 100 + rank);
  return (weight * output * output + output * weight.cos()).sum();
}

double total(const Group& group, double loss) {
  at::Tensor sum = at::full({1}, loss, at::kDouble);
  group->all_reduce(sum);
  return sum.item<double>();
}

void expect_close(const at::Tensor& actual, const at::Tensor& expected) {
  ASSERT_EQ(actual.sizes(), expected.sizes());
  EXPECT_TRUE(at::allclose(actual, expected, 1e-6, 1e-6)) << actual << "\nexpected\n" << expected;
}

/// Central differences of the sum of all ranks' losses with respect to this rank's input.
at::Tensor numeric_gradient(const Form& form, const Group& group, const at::Tensor& input) {
  constexpr double kStep = 1e-4;
  at::Tensor gradient = at::zeros_like(input);
  const at::NoGradGuard no_grad;
  for (int rank = 0; rank < group->world_size(); ++rank) {
    at::Tensor numel = at::full({1}, input.numel(), at::kLong);
    group->broadcast(numel, rank);
    for (std::int64_t i = 0; i < numel.item<std::int64_t>(); ++i) {
      const auto moved = [&](double step) {
        at::Tensor x = input.detach().clone();
        if (group->rank() == rank) x.view({-1})[i] += step;
        return total(group, loss_of(form(x, group), group->rank()).item<double>());
      };
      const double slope = (moved(kStep) - moved(-kStep)) / (2 * kStep);
      if (group->rank() == rank) gradient.view({-1})[i] = slope;
    }
  }
  return gradient;
}

void check_gradient(int world_size, const Shape& shape, const Form& form) {
  run_rank_threads(world_size, [&](const Group& group) {
    const at::Tensor input = numbers(shape(group->rank(), world_size), group->rank()).set_requires_grad(true);
    const at::Tensor output = form(input, group);
    EXPECT_TRUE(output.requires_grad());
    EXPECT_TRUE(output.is_contiguous());
    loss_of(output, group->rank()).backward();
    expect_close(input.grad(), numeric_gradient(form, group, input));
  });
}

std::vector<std::int64_t> three_by_two(int, int) { return {3, 2}; }
/// Divisible by the number of ranks along both dims.
std::vector<std::int64_t> divisible(int, int world_size) { return {2 * world_size, world_size}; }

/// 2, 3, 0: a size for each rank.
Sizes uneven(int world_size) {
  Sizes sizes = {2, 3, 0};
  sizes.resize(static_cast<std::size_t>(world_size));
  return sizes;
}
std::int64_t uneven(int rank, int world_size) { return uneven(world_size).at(static_cast<std::size_t>(rank)); }
std::int64_t sum(const Sizes& sizes) { return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}); }

/// Rank s sends s + 2 d rows to rank d.
Sizes sent(const ProcessGroup& group) {
  Sizes sizes;
  for (int d = 0; d < group.world_size(); ++d) sizes.push_back(group.rank() + 2 * d);
  return sizes;
}
Sizes received(const ProcessGroup& group) {
  Sizes sizes;
  for (int s = 0; s < group.world_size(); ++s) sizes.push_back(s + 2 * group.rank());
  return sizes;
}

class Functional : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Worlds, Functional, ::testing::Values(1, 2, 3));

// ---- values ----

TEST_P(Functional, ReturnsNewTensorsOfTheRightValues) {
  run_rank_threads(GetParam(), [](const Group& group) {
    const int n = group->world_size();
    const int me = group->rank();
    const at::Tensor input = at::arange(6, at::kFloat).view({2, 3}) + me;
    const at::Tensor before = input.clone();
    const at::Tensor base = at::arange(6, at::kFloat).view({2, 3});
    const at::Tensor total_of_all = base * n + n * (n - 1) / 2;
    EXPECT_TRUE(at::equal(functional::all_reduce(input, group), total_of_all));
    EXPECT_TRUE(at::equal(functional::all_reduce(input, group, premul_sum(2)), total_of_all * 2));
    EXPECT_TRUE(at::equal(functional::reduce(input, group, n - 1), me == n - 1 ? total_of_all : at::zeros({2, 3})));
    EXPECT_TRUE(at::equal(functional::broadcast(input, group, n - 1), base + (n - 1)));
    std::vector<at::Tensor> all;
    for (int r = 0; r < n; ++r) all.push_back(base + r);
    EXPECT_TRUE(at::equal(functional::all_gather(input, group), at::cat(all)));
    EXPECT_TRUE(at::equal(functional::all_gather(input, group, 1), at::cat(all, 1)));
    EXPECT_TRUE(at::equal(functional::all_gather(input, group, -1), at::cat(all, 1)));
    EXPECT_TRUE(at::equal(functional::all_gather(at::full({}, me), group), at::arange(n)));
    EXPECT_TRUE(at::equal(input, before));
    EXPECT_NE(functional::all_gather(input, group).data_ptr(), input.data_ptr());
  });
}

TEST_P(Functional, ReduceScatterCutsAnyDim) {
  run_rank_threads(GetParam(), [](const Group& group) {
    const int n = group->world_size();
    const int me = group->rank();
    const at::Tensor base = at::arange(6 * n * n, at::kFloat).view({2 * n, 3 * n});
    const at::Tensor input = base * (me + 1);
    const at::Tensor all = base * (n * (n + 1) / 2);
    EXPECT_TRUE(at::equal(functional::reduce_scatter(input, group), all.narrow(0, 2 * me, 2)));
    EXPECT_TRUE(at::equal(functional::reduce_scatter(input, group, ReduceOp::kSum, 1), all.narrow(1, 3 * me, 3)));
    EXPECT_TRUE(at::equal(functional::reduce_scatter(input, group, premul_sum(2), -1), all.narrow(1, 3 * me, 3) * 2));
  });
}

TEST_P(Functional, UnequalPartsComeInRankOrder) {
  run_rank_threads(GetParam(), [](const Group& group) {
    const int n = group->world_size();
    const Sizes sizes = uneven(n);
    const at::Tensor all = at::arange(4 * sum(sizes), at::kLong).view({4, sum(sizes)});
    const at::Tensor mine = all.split_with_sizes(sizes, 1)[static_cast<std::size_t>(group->rank())];
    EXPECT_TRUE(at::equal(functional::all_gather(mine, group, sizes, 1), all));
    EXPECT_TRUE(at::equal(functional::all_gather(mine.t(), group, sizes), all.t()));
    EXPECT_TRUE(at::equal(functional::reduce_scatter(all, group, sizes, ReduceOp::kSum, 1), mine * n));
    EXPECT_TRUE(at::equal(functional::reduce_scatter(all.t(), group, sizes, ReduceOp::kSum), mine.t() * n));
  });
}

TEST_P(Functional, AllToAllTransposesTheRanks) {
  run_rank_threads(GetParam(), [](const Group& group) {
    const int n = group->world_size();
    const int me = group->rank();
    EXPECT_TRUE(at::equal(functional::all_to_all(at::arange(n) + 10 * me, group), 10 * at::arange(n) + me));
    std::vector<at::Tensor> out, in;
    for (int r = 0; r < n; ++r) {
      out.push_back(at::full({me + 2 * r, 2}, 10 * me + r));
      in.push_back(at::full({r + 2 * me, 2}, 10 * r + me));
    }
    EXPECT_TRUE(at::equal(functional::all_to_all(at::cat(out), group, received(*group), sent(*group)), at::cat(in)));
  });
}

// ---- gradients ----

TEST_P(Functional, GradientsOfReductions) {
  const int n = GetParam();
  check_gradient(n, three_by_two, [](const auto& x, const Group& g) { return functional::all_reduce(x, g); });
  check_gradient(n, three_by_two,
                 [](const auto& x, const Group& g) { return functional::all_reduce(x, g, ReduceOp::kAvg); });
  check_gradient(n, three_by_two, [](const auto& x, const Group& g) {
    return functional::all_reduce(x, g, premul_sum(g->rank() + 0.5));
  });
  for (int root = 0; root < n; ++root) {
    check_gradient(n, three_by_two, [&](const auto& x, const Group& g) { return functional::reduce(x, g, root); });
    check_gradient(n, three_by_two, [&](const auto& x, const Group& g) {
      return functional::reduce(x, g, root, premul_sum(g->rank() - 0.5));
    });
    check_gradient(n, three_by_two,
                   [&](const auto& x, const Group& g) { return functional::reduce(x, g, root, ReduceOp::kAvg); });
    check_gradient(n, three_by_two, [&](const auto& x, const Group& g) { return functional::broadcast(x, g, root); });
  }
}

TEST_P(Functional, GradientsOfAllGather) {
  const int n = GetParam();
  check_gradient(n, three_by_two, [](const auto& x, const Group& g) { return functional::all_gather(x, g); });
  check_gradient(n, three_by_two, [](const auto& x, const Group& g) { return functional::all_gather(x, g, 1); });
  check_gradient(n, three_by_two, [](const auto& x, const Group& g) { return functional::all_gather(x.t(), g, -1); });
  check_gradient(
      n, [](int, int) { return std::vector<std::int64_t>(); },
      [](const auto& x, const Group& g) { return functional::all_gather(x, g); });
  check_gradient(
      n,
      [](int rank, int size) {
        return std::vector<std::int64_t>{uneven(rank, size), 2};
      },
      [n](const auto& x, const Group& g) { return functional::all_gather(x, g, uneven(n)); });
  check_gradient(
      n,
      [](int rank, int size) {
        return std::vector<std::int64_t>{2, uneven(rank, size)};
      },
      [n](const auto& x, const Group& g) { return functional::all_gather(x, g, uneven(n), 1); });
}

TEST_P(Functional, GradientsOfReduceScatter) {
  const int n = GetParam();
  check_gradient(n, divisible, [](const auto& x, const Group& g) { return functional::reduce_scatter(x, g); });
  check_gradient(n, divisible,
                 [](const auto& x, const Group& g) { return functional::reduce_scatter(x, g, ReduceOp::kAvg, 1); });
  check_gradient(n, divisible, [](const auto& x, const Group& g) {
    return functional::reduce_scatter(x, g, premul_sum(g->rank() + 0.5));
  });
  const auto uneven_rows = [](int, int size) { return std::vector<std::int64_t>{sum(uneven(size)), 2}; };
  check_gradient(n, uneven_rows,
                 [n](const auto& x, const Group& g) { return functional::reduce_scatter(x, g, uneven(n)); });
  check_gradient(n, uneven_rows, [n](const auto& x, const Group& g) {
    return functional::reduce_scatter(x.t(), g, uneven(n), ReduceOp::kAvg, 1);
  });
}

TEST_P(Functional, GradientsOfAllToAll) {
  const int n = GetParam();
  check_gradient(n, divisible, [](const auto& x, const Group& g) { return functional::all_to_all(x, g); });
  check_gradient(
      n,
      [](int rank, int size) {
        return std::vector<std::int64_t>{size * rank + size * (size - 1), 2};
      },
      [](const auto& x, const Group& g) { return functional::all_to_all(x, g, received(*g), sent(*g)); });
}

TEST_P(Functional, GradientsThroughCompositionsAndRepeatedUse) {
  const int n = GetParam();
  check_gradient(n, three_by_two, [](const auto& x, const Group& g) {
    const at::Tensor all = functional::all_gather(x, g).sin();
    return functional::reduce_scatter(all * all, g) + x;
  });
  check_gradient(n, three_by_two, [](const auto& x, const Group& g) {
    const at::Tensor mean = functional::all_reduce(x, g, ReduceOp::kAvg);
    const at::Tensor variance = functional::all_reduce((x - mean).square(), g, ReduceOp::kAvg);
    return (x - mean) / (variance + 0.1).sqrt();
  });
  check_gradient(n, three_by_two, [](const auto& x, const Group& g) {
    return at::cat({functional::all_gather(x, g), functional::all_gather(x.exp(), g).t().reshape({-1, 2})});
  });
}

TEST_P(Functional, GradientsOfGradients) {
  const std::vector<Form> forms = {
      [](const auto& x, const Group& g) { return functional::all_reduce(x, g); },
      [](const auto& x, const Group& g) { return functional::broadcast(x, g, g->world_size() - 1); },
      [](const auto& x, const Group& g) { return functional::all_gather(x, g, 1); },
      [](const auto& x, const Group& g) { return functional::reduce_scatter(x, g, premul_sum(g->rank() + 0.5)); },
      [](const auto& x, const Group& g) { return functional::all_to_all(x, g); },
  };
  for (const Form& form : forms) {
    check_gradient(GetParam(), divisible, [&](const at::Tensor& x, const Group& group) {
      const at::AutoGradMode enabled(true);
      const at::Tensor leaf = x.requires_grad() ? x : x.detach().requires_grad_();
      const at::Tensor loss = loss_of(form(leaf, group), group->rank());
      return torch::autograd::grad({loss}, {leaf}, {}, true, true)[0].contiguous();
    });
  }
}

// A contrastive loss compares each sample with all samples of the global batch, whichever rank they are on.
TEST_P(Functional, ContrastiveLossOverAllRanksIsThatOfOneProcess) {
  run_rank_threads(GetParam(), [](const Group& group) {
    const Sizes sizes = uneven(group->world_size());
    const std::int64_t batch = sum(sizes);
    const auto rank = static_cast<std::size_t>(group->rank());
    const at::Tensor images = numbers({batch, 4}, 1);
    const at::Tensor texts = numbers({batch, 4}, 2);
    const auto encode = [](const at::Tensor& x, const at::Tensor& weight) {
      const at::Tensor code = at::tanh(x.matmul(weight));
      return code / code.norm(2, 1, true);
    };
    const auto loss_of_rows = [&](const at::Tensor& rows, const at::Tensor& columns, const at::Tensor& target) {
      const at::Tensor logits = rows.matmul(columns.t()) / 0.5;
      return -logits.log_softmax(1).gather(1, target.unsqueeze(1)).sum() / static_cast<double>(batch);
    };
    const at::Tensor target = at::arange(batch);

    const at::Tensor alone = numbers({4, 3}, 3).set_requires_grad(true);
    const at::Tensor expected = loss_of_rows(encode(images, alone), encode(texts, alone), target);
    expected.backward();

    const at::Tensor weight = numbers({4, 3}, 3).set_requires_grad(true);
    const auto mine = [&](const at::Tensor& all) { return all.split_with_sizes(sizes)[rank]; };
    const at::Tensor all_texts = functional::all_gather(encode(mine(texts), weight), group, sizes);
    const at::Tensor loss = loss_of_rows(encode(mine(images), weight), all_texts, mine(target));
    loss.backward();
    at::Tensor gradient = weight.grad().contiguous();
    group->all_reduce(gradient);

    EXPECT_NEAR(total(group, loss.item<double>()), expected.item<double>(), 1e-12);
    EXPECT_TRUE(at::allclose(gradient, alone.grad(), 1e-10, 1e-12)) << gradient << alone.grad();
  });
}

// ---- the rest ----

TEST_P(Functional, BackwardReachesARankWhoseResultCountsForNothing) {
  run_rank_threads(GetParam(), [](const Group& group) {
    const at::Tensor input = torch::ones({3}, at::requires_grad());
    const at::Tensor output = functional::all_reduce(input, group);
    (group->rank() == 0 ? output.sum() : output.sum() * 0).backward();
    EXPECT_TRUE(at::equal(input.grad(), at::ones({3})));
  });
}

Group alone() { return std::make_shared<ProcessGroup>(make_communicator(make_memory_store(), 0, 1)); }

TEST(FunctionalForms, NeedNoGradientWhereNoneIsAskedFor) {
  const Group group = alone();
  EXPECT_FALSE(functional::all_reduce(at::ones({2}), group).requires_grad());
  const at::Tensor leaf = torch::ones({2}, at::requires_grad());
  {
    const at::NoGradGuard no_grad;
    EXPECT_FALSE(functional::all_gather(leaf, group).requires_grad());
  }
  EXPECT_TRUE(functional::all_gather(leaf, group).requires_grad());
}

TEST(FunctionalForms, TheGraphKeepsTheGroup) {
  Group group = alone();
  const at::Tensor leaf = torch::ones({2}, at::requires_grad());
  const at::Tensor loss = functional::reduce_scatter(functional::all_gather(leaf, group), group).sum();
  const std::weak_ptr<ProcessGroup> watch = group;
  group.reset();
  EXPECT_FALSE(watch.expired());
  loss.backward();
  EXPECT_TRUE(at::equal(leaf.grad(), at::ones({2})));
}

TEST(FunctionalForms, ErrorsComeOutOfBackwardWithTheirType) {
  const Group group = alone();
  const at::Tensor leaf = torch::ones({2}, at::requires_grad());
  const at::Tensor loss = functional::all_reduce(leaf, group).sum();
  group->abort("the test says so");
  EXPECT_THROW(loss.backward(), AbortedError);
}

std::string usage_error(const std::function<void()>& call) {
  try {
    call();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no UsageError";
}

TEST(FunctionalForms, RefuseReductionsWithoutAGradient) {
  const Group group = alone();
  const at::Tensor tensor = at::ones({2});
  EXPECT_THAT(usage_error([&] { functional::all_reduce(tensor, group, ReduceOp::kMax); }),
              AllOf(HasSubstr("rank 0/1 group world: all_reduce"), HasSubstr("no gradient is defined for max"),
                    HasSubstr("expected sum, avg or premul_sum")));
  EXPECT_THAT(usage_error([&] { functional::reduce_scatter(tensor, group, ReduceOp::kMin); }), HasSubstr("for min"));
  EXPECT_THAT(usage_error([&] { functional::reduce(tensor, group, 0, ReduceOp::kProduct); }), HasSubstr("for product"));
}

TEST(FunctionalForms, NameWhatDoesNotFit) {
  run_rank_threads(2, [](const Group& group) {
    const at::Tensor odd = at::ones({3, 2});
    EXPECT_THAT(usage_error([&] { functional::reduce_scatter(odd, group); }),
                HasSubstr("reduce_scatter: input is f32 [3, 2]; expected dim 0 to be a multiple of world_size 2"));
    EXPECT_THAT(usage_error([&] {
                  functional::reduce_scatter(odd, group, {1, 1});
                }),
                HasSubstr("sizes is [1, 1]; expected sizes that add up to dim 0, 3"));
    EXPECT_THAT(usage_error([&] {
                  functional::reduce_scatter(odd, group, {1, 1}, {}, 2);
                }),
                HasSubstr("dim is 2 and input is f32 [3, 2]; expected a dim from -2 to 1"));
    EXPECT_THAT(usage_error([&] { functional::all_gather(odd, group, -3); }), HasSubstr("dim is -3"));
    EXPECT_THAT(usage_error([&] { functional::all_gather(odd, group, Sizes{3}); }), HasSubstr("expected 2 sizes"));
    EXPECT_THAT(usage_error([&] {
                  functional::all_gather(odd, group, {4, 4});
                }),
                AllOf(HasSubstr("expected size 4 in dim 0, sizes["), HasSubstr("] of [4, 4]")));
    EXPECT_THAT(usage_error([&] { functional::all_to_all(odd, group); }), HasSubstr("multiple of world_size"));
    EXPECT_THAT(usage_error([&] {
                  functional::all_to_all(odd, group, {1, 1}, {1, 1});
                }),
                HasSubstr("input_split_sizes is [1, 1]"));
    EXPECT_THAT(usage_error([&] {
                  functional::all_to_all(odd, group, {}, {1, 2});
                }),
                HasSubstr("output_split_sizes is []; expected 2 sizes"));
    EXPECT_THAT(usage_error([&] { functional::all_reduce(odd.to_sparse(), group); }), HasSubstr("dense"));
    EXPECT_THAT(usage_error([&] { functional::all_reduce(at::Tensor(), group); }), HasSubstr("input is undefined"));
    EXPECT_THAT(usage_error([&] { functional::broadcast(odd, nullptr, 0); }), HasSubstr("group is null"));
    group->barrier();
  });
}

}  // namespace
}  // namespace lockstep
