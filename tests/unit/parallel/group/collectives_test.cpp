// The operations of ProcessGroup beside all_reduce, broadcast and the equal all_gather and reduce_scatter, which
// process_group_test.cpp has.
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lockstep/parallel/group/dtype_map.h"
#include "lockstep/parallel/group/objects.h"
#include "lockstep/parallel/group/process_group.h"
#include "tests/unit/parallel/group/rank_threads.h"

namespace lockstep {
namespace {

using test::run_rank_threads;
using Sizes = ProcessGroup::Sizes;

/// The next rank of a ring, and the one before.
int next(const ProcessGroup& group) { return (group.rank() + 1) % group.world_size(); }
int previous(const ProcessGroup& group) { return (group.rank() + group.world_size() - 1) % group.world_size(); }

/// 3, 0, 5, 10 ...: one chunk is empty, none is like another.
Sizes awkward_sizes(int world_size) {
  Sizes sizes;
  for (int r = 0; r < world_size; ++r) sizes.push_back(r == 0 ? 3 : 5 * (r - 1));
  return sizes;
}

std::int64_t sum(const Sizes& sizes) { return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}); }

/// The elements of all ranks' chunks before `rank`'s.
std::int64_t offset(const Sizes& sizes, int rank) {
  return std::accumulate(sizes.begin(), sizes.begin() + rank, std::int64_t{0});
}

class TensorCollectives : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Worlds, TensorCollectives, ::testing::Values(1, 2, 3, 4));

TEST_P(TensorCollectives, ReducesAtEveryRootAndNowhereElse) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    for (int root = 0; root < n; ++root) {
      const at::Tensor mine = at::arange(7, at::kFloat).view({7, 1}) + group->rank();
      const at::Tensor total = at::arange(7, at::kFloat).view({7, 1}) * n + n * (n - 1) / 2;
      at::Tensor blocking = mine.clone();
      at::Tensor started = mine.clone();
      const auto before = started._version();
      group->reduce(blocking, root);
      group->reduce_async(started, root, ReduceOp::kMax).wait();
      const bool here = group->rank() == root;
      EXPECT_TRUE(at::equal(blocking, here ? total : mine));
      EXPECT_TRUE(at::equal(started, here ? at::arange(7, at::kFloat).view({7, 1}) + (n - 1) : mine));
      EXPECT_EQ(started._version(), before + (here ? 1 : 0));
    }
  });
}

TEST_P(TensorCollectives, PremultipliedSumTakesEachRanksFactor) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    at::Tensor tensor = at::arange(5, at::kDouble);
    group->all_reduce(tensor, premul_sum(group->rank() + 1));
    EXPECT_TRUE(at::equal(tensor, at::arange(5, at::kDouble) * (n * (n + 1) / 2)));
    at::Tensor output = at::empty({2});
    group->reduce_scatter(output, at::ones({2 * n}), premul_sum(2));
    EXPECT_TRUE(at::equal(output, at::full({2}, 2.0F * static_cast<float>(n))));
  });
}

TEST_P(TensorCollectives, GathersAtEveryRootAndNeedsNoOutputElsewhere) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    const at::Tensor mine = at::arange(3, at::kInt) + 10 * group->rank();
    const at::Tensor expected = at::arange(3, at::kInt) + 10 * at::arange(n, at::kInt).view({n, 1});
    for (int root = 0; root < n; ++root) {
      const bool here = group->rank() == root;
      at::Tensor blocking = here ? at::zeros({n, 3}, at::kInt) : at::Tensor();
      at::Tensor started = at::zeros({n, 3}, at::kInt);
      group->gather(blocking, mine, root);
      group->gather_async(started, mine, root).wait();
      EXPECT_EQ(blocking.defined(), here);
      if (here) {
        EXPECT_TRUE(at::equal(blocking, expected));
      }
      EXPECT_TRUE(at::equal(started, here ? expected : at::zeros({n, 3}, at::kInt)));
    }
  });
}

TEST_P(TensorCollectives, ScattersFromEveryRootAndNeedsNoInputElsewhere) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    for (int root = 0; root < n; ++root) {
      const bool here = group->rank() == root;
      const at::Tensor input = here ? at::arange(3 * n, at::kLong).view({n, 3}) : at::Tensor();
      const at::Tensor expected = at::arange(3, at::kLong) + 3 * group->rank();
      at::Tensor blocking = at::zeros({3}, at::kLong);
      at::Tensor started = at::zeros({3}, at::kLong);
      group->scatter(blocking, input, root);
      group->scatter_async(started, input, root).wait();
      EXPECT_TRUE(at::equal(blocking, expected));
      EXPECT_TRUE(at::equal(started, expected));
    }
  });
}

TEST_P(TensorCollectives, GathersUnequalChunks) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const Sizes counts = awkward_sizes(group->world_size());
    const at::Tensor all = at::arange(sum(counts), at::kFloat);
    const auto mine = counts[static_cast<std::size_t>(group->rank())];
    const at::Tensor input = all.narrow(0, offset(counts, group->rank()), mine).clone();
    at::Tensor blocking = at::zeros_like(all);
    at::Tensor started = at::zeros_like(all);
    group->all_gather(blocking, input, counts);
    group->all_gather_async(started, input, counts).wait();
    EXPECT_TRUE(at::equal(blocking, all));
    EXPECT_TRUE(at::equal(started, all));
  });
}

TEST_P(TensorCollectives, ReduceScattersUnequalChunks) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    const Sizes counts = awkward_sizes(n);
    const at::Tensor input = at::arange(sum(counts), at::kDouble) * (group->rank() + 1);
    const auto mine = counts[static_cast<std::size_t>(group->rank())];
    const at::Tensor chunk = at::arange(sum(counts), at::kDouble).narrow(0, offset(counts, group->rank()), mine);
    at::Tensor blocking = at::zeros({mine}, at::kDouble);
    at::Tensor started = at::zeros({mine}, at::kDouble);
    group->reduce_scatter(blocking, input, counts);
    group->reduce_scatter_async(started, input, counts, ReduceOp::kMax).wait();
    EXPECT_TRUE(at::equal(blocking, chunk * (n * (n + 1) / 2)));
    EXPECT_TRUE(at::equal(started, chunk * n));
  });
}

TEST_P(TensorCollectives, ExchangesEqualPartsOfDimZero) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    // Row 2 d + i of rank s is 100 s + 10 d + i.
    const at::Tensor rows = (10 * at::arange(n, at::kInt).view({n, 1}) + at::arange(2, at::kInt)).reshape({2 * n, 1});
    const at::Tensor input = (rows + 100 * group->rank()).expand({2 * n, 3}).contiguous();
    const at::Tensor came = 100 * at::arange(n, at::kInt).view({n, 1}) + at::arange(2, at::kInt) + 10 * group->rank();
    const at::Tensor expected = came.reshape({2 * n, 1}).expand({2 * n, 3});
    at::Tensor blocking = at::zeros({2 * n, 3}, at::kInt);
    at::Tensor started = at::zeros({2 * n, 3}, at::kInt);
    at::Tensor split = at::zeros({2 * n, 3}, at::kInt);
    group->all_to_all(blocking, input);
    group->all_to_all_async(started, input).wait();
    group->all_to_all(split, input, {}, {});
    EXPECT_TRUE(at::equal(blocking, expected));
    EXPECT_TRUE(at::equal(started, expected));
    EXPECT_TRUE(at::equal(split, expected));
  });
}

TEST_P(TensorCollectives, ExchangesUnequalParts) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    const int me = group->rank();
    // Rank s sends s + 2 d rows to rank d, filled with 10 s + d.
    Sizes sent, received;
    std::vector<at::Tensor> out, in;
    for (int r = 0; r < n; ++r) {
      sent.push_back(me + 2 * r);
      received.push_back(r + 2 * me);
      out.push_back(at::full({sent.back(), 2}, 10 * me + r, at::kFloat));
      in.push_back(at::full({received.back(), 2}, 10 * r + me, at::kFloat));
    }
    const at::Tensor input = at::cat(out);
    const at::Tensor expected = at::cat(in);
    at::Tensor blocking = at::zeros_like(expected);
    at::Tensor started = at::zeros_like(expected);
    group->all_to_all(blocking, input, received, sent);
    group->all_to_all_async(started, input, received, sent).wait();
    EXPECT_TRUE(at::equal(blocking, expected));
    EXPECT_TRUE(at::equal(started, expected));
  });
}

TEST_P(TensorCollectives, PassesMessagesRoundARing) {
  run_rank_threads(GetParam(), [](const auto& group) {
    if (group->world_size() == 1) return;
    const at::Tensor mine = at::full({4, 2}, group->rank(), at::kLong);
    at::Tensor theirs = at::full({4, 2}, -1, at::kLong);
    const auto mine_before = mine._version();
    const auto theirs_before = theirs._version();
    Work sending = group->send_async(mine, next(*group), 7);
    EXPECT_EQ(group->recv(theirs, previous(*group), 7), previous(*group));
    sending.wait();
    EXPECT_TRUE(at::equal(theirs, at::full({4, 2}, previous(*group), at::kLong)));
    EXPECT_GT(theirs._version(), theirs_before);
    EXPECT_EQ(mine._version(), mine_before);
  });
}

TEST_P(TensorCollectives, ReceivesFromAnySourceByTag) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    if (group->rank() != 0) {
      for (int tag = 0; tag < 2; ++tag) group->send(at::full({3}, 10.0 * group->rank() + tag), 0, tag);
      return;
    }
    for (int tag = 1; tag >= 0; --tag) {
      std::vector<bool> seen(static_cast<std::size_t>(n), false);
      for (int i = 1; i < n; ++i) {
        at::Tensor tensor = at::zeros({3});
        const int source = group->recv(tensor, kAnySource, tag);
        EXPECT_TRUE(at::equal(tensor, at::full({3}, 10.0 * source + tag)));
        EXPECT_FALSE(seen.at(static_cast<std::size_t>(source)));
        seen.at(static_cast<std::size_t>(source)) = true;
      }
    }
  });
}

TEST_P(TensorCollectives, ReceivesInTheBackground) {
  run_rank_threads(GetParam(), [](const auto& group) {
    if (group->world_size() == 1) return;
    at::Tensor first = at::zeros({5});
    at::Tensor second = at::zeros({1});
    Work receiving_second = group->recv_async(second, previous(*group), 1);
    Work receiving_first = group->recv_async(first, previous(*group), 0);
    group->send(at::full({5}, 3.0), next(*group), 0);
    group->send(at::full({1}, 4.0), next(*group), 1);
    receiving_first.wait();
    receiving_second.wait();
    EXPECT_TRUE(at::equal(first, at::full({5}, 3.0)));
    EXPECT_TRUE(at::equal(second, at::full({1}, 4.0)));
  });
}

TEST_P(TensorCollectives, CoalescedReductionsAndBroadcastsAreInPlace) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    const auto make = [&](int value) {
      return std::vector<at::Tensor>{at::full({3, 1}, value), at::full({0}, value), at::full({100'003}, value),
                                     at::full({}, value)};
    };
    const auto expect = [](const std::vector<at::Tensor>& tensors, const std::vector<at::Tensor>& expected) {
      for (std::size_t i = 0; i < tensors.size(); ++i) EXPECT_TRUE(at::equal(tensors[i], expected[i])) << i;
    };
    std::vector<at::Tensor> tensors = make(group->rank() + 1);
    group->all_reduce_coalesced(tensors);
    expect(tensors, make(n * (n + 1) / 2));
    tensors = make(group->rank() + 1);
    group->all_reduce_coalesced_async(tensors, ReduceOp::kMin).wait();
    expect(tensors, make(1));
    tensors = make(group->rank());
    group->broadcast_coalesced(tensors, n - 1);
    expect(tensors, make(n - 1));
    tensors = make(group->rank());
    group->broadcast_coalesced_async(tensors, 0).wait();
    expect(tensors, make(0));
  });
}

TEST_P(TensorCollectives, CoalescedGathersAndScattersTakeListsOfPairs) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    const std::vector<at::Tensor> chunks = {at::full({2}, group->rank(), at::kInt),
                                            at::full({3, 3}, 10 * group->rank(), at::kInt)};
    const std::vector<at::Tensor> all = {at::arange(n, at::kInt).view({n, 1}).expand({n, 2}),
                                         10 * at::arange(n, at::kInt).view({n, 1, 1}).expand({n, 3, 3})};
    for (const bool started : {false, true}) {
      const std::vector<at::Tensor> gathered = {at::zeros({n, 2}, at::kInt), at::zeros({n, 3, 3}, at::kInt)};
      const std::vector<at::Tensor> scattered = {at::zeros({2}, at::kInt), at::zeros({3, 3}, at::kInt)};
      if (started) {
        Work gathering = group->all_gather_coalesced_async(gathered, chunks);
        gathering.wait();
        group->reduce_scatter_coalesced_async(scattered, gathered).wait();
      } else {
        group->all_gather_coalesced(gathered, chunks);
        group->reduce_scatter_coalesced(scattered, gathered);
      }
      for (std::size_t i = 0; i < 2; ++i) {
        EXPECT_TRUE(at::equal(gathered[i], all[i]));
        EXPECT_TRUE(at::equal(scattered[i], chunks[i] * n));
      }
    }
  });
}

TEST_P(TensorCollectives, BarrierCanBeStarted) {
  run_rank_threads(GetParam(), [](const auto& group) {
    Work barrier = group->barrier_async();
    barrier.wait();
    EXPECT_TRUE(barrier.done());
  });
}

TEST_P(TensorCollectives, ObjectsAreBytesOfAnySize) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    const auto object_of = [](int rank) { return std::string(static_cast<std::size_t>(1000 * rank), '\0') + "end"; };
    std::vector<std::string> all;
    for (int r = 0; r < n; ++r) all.push_back(object_of(r));
    const std::string mine = object_of(group->rank());
    const int root = n - 1;
    const bool here = group->rank() == root;
    EXPECT_EQ(all_gather_object(*group, mine), all);
    EXPECT_EQ(gather_object(*group, mine, root), here ? all : std::vector<std::string>());
    EXPECT_EQ(broadcast_object(*group, mine, root), all.back());
    EXPECT_EQ(scatter_object(*group, here ? all : std::vector<std::string>(), root), mine);
    if (n == 1) return;
    if (group->rank() == 0) send_object(*group, "hello", 1, 5);
    if (group->rank() == 1) {
      EXPECT_EQ(recv_object(*group, kAnySource, 5), std::pair(std::string("hello"), 0));
    }
  });
}

TEST_P(TensorCollectives, SubgroupsHaveRanksOfTheirOwn) {
  run_rank_threads(GetParam(), [](const auto& world) {
    const int n = world->world_size();
    // The last rank and rank 0 (one of them, in a world of one), the last one first.
    std::vector<int> ranks = {n - 1};
    if (n > 1) ranks.push_back(0);
    const bool member = world->rank() == 0 || world->rank() == n - 1;
    if (member) {
      const auto pair = world->new_group(ranks, {.name = "pair"});
      EXPECT_EQ(pair->name(), "pair");
      EXPECT_EQ(pair->world_size(), static_cast<int>(ranks.size()));
      EXPECT_EQ(ranks.at(static_cast<std::size_t>(pair->rank())), world->rank());
      EXPECT_EQ(pair->local_world_size(), world->local_world_size());
      EXPECT_EQ(pair->store(), world->store());
      at::Tensor tensor = at::full({3}, world->rank(), at::kLong);
      pair->broadcast(tensor, 0);
      EXPECT_TRUE(at::equal(tensor, at::full({3}, n - 1, at::kLong)));
    }
    const auto half = world->split(world->rank() == 1 ? -1 : world->rank() % 2, -world->rank());
    if (world->rank() == 1) {
      EXPECT_EQ(half, nullptr);
      return;
    }
    at::Tensor order = at::empty({half->world_size()}, at::kLong);
    half->all_gather(order, at::full({1}, world->rank(), at::kLong));
    const std::vector<std::int64_t> even = n > 2 ? std::vector<std::int64_t>{2, 0} : std::vector<std::int64_t>{0};
    const std::vector<std::int64_t> expected = world->rank() == 3 ? std::vector<std::int64_t>{3} : even;
    EXPECT_TRUE(at::equal(order, at::tensor(expected)));
  });
}

}  // namespace
}  // namespace lockstep
