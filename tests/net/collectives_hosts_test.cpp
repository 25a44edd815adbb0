// Every operation between hosts, with exact results: on the engine alone, with shared memory on each host, and as auto
// chooses; and random operations in groups that span hosts or stay on one.

#include <algorithm>
#include <iostream>
#include <numeric>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/check.h"
#include "lockstep/core/comm/init.h"
#include "lockstep/core/comm/subgroup.h"
#include "tests/net/net_worker.h"
#include "tests/support/dev_shm.h"
#include "tests/support/exact.h"
#include "tests/support/random_operations.h"

namespace lockstep::net {
namespace {

using lockstep::testing::factor_of;
using lockstep::testing::Pattern;
using support::Arguments;
using support::Hosts;
using support::ProcessOptions;
using support::ProcessResult;
using support::shared_memory_files;
using ::testing::HasSubstr;

Job join(const std::string& backend) {
  InitOptions options;
  options.backend = backend;
  options.timeout = options.init_timeout = std::chrono::seconds(60);
  return init_from_environment(options);
}

struct Case {
  OpKind kind;
  DType dtype;
  ReduceOp op;
  std::size_t count;
  int root;
  bool in_place;

  std::string text() const {
    return base::cat(name_of(kind), " of ", count, ' ', name_of(dtype), ' ', name_of(op), " root ", root,
                     in_place ? " in place" : "");
  }
};

/// One rank's buffers, and what it checks.
class Checker {
 public:
  explicit Checker(Communicator& communicator) : c_(communicator), me_(static_cast<std::size_t>(communicator.rank())) {}

  /// Throws std::runtime_error where the result is wrong.
  void run(const Case& each) {
    case_ = each;
    width_ = size_of(each.dtype);
    const std::size_t room = world() * each.count * width_ + 1;
    // What the operation does not write stays.
    in_.assign(room, std::byte{0x11});
    out_.assign(room, std::byte{0x22});
    const ReduceOp op = reduces(each.kind) ? each.op : ReduceOp::kSum;
    mine(op).write(in_.data(), world() * each.count);
    call(op == ReduceOp::kPreMulSum ? premul_sum(factor_of(c_.rank())) : Reduction(op));
    LS_CHECK(in_.back() == std::byte{0x11} && out_.back() == std::byte{0x22}, each.text(), ": written past the end");
  }

 private:
  std::size_t world() const { return static_cast<std::size_t>(c_.world_size()); }
  const Pattern& mine(ReduceOp op) const { return Pattern::of_rank(c_.rank(), case_.dtype, op); }

  void expect(const Pattern& pattern, const std::byte* data, std::size_t first) const {
    const std::size_t wrong = pattern.count_wrong(data, case_.count, first);
    if (wrong == 0) return;
    throw std::runtime_error(base::cat(case_.text(), ": ", wrong, " elements are wrong"));
  }
  void expect_everyones(std::size_t first) const {
    for (std::size_t r = 0; r < world(); ++r) {
      expect(Pattern::of_rank(static_cast<int>(r), case_.dtype), out_.data() + r * case_.count * width_, first);
    }
  }

  void call(Reduction reduction) {
    const auto [kind, dtype, op, n, root, in_place] = case_;
    const std::size_t own = me_ * n * width_;
    const bool is_root = c_.rank() == root;
    std::byte* const in = in_.data();
    std::byte* out = out_.data();
    const Pattern& sum = Pattern::of_result(c_.world_size(), dtype, op);
    switch (kind) {
      case OpKind::kBroadcast: c_.broadcast(in, n, dtype, root); return expect(Pattern::of_rank(root, dtype), in, 0);
      case OpKind::kAllReduce:
        out = in_place ? in : out;
        c_.all_reduce(in, out, n, dtype, reduction);
        return expect(sum, out, 0);
      case OpKind::kReduce:
        out = in_place ? in : out;
        c_.reduce(in, out, n, dtype, root, reduction);
        return is_root ? expect(sum, out, 0) : expect(mine(op), in, 0);
      case OpKind::kReduceScatter:
        out = in_place ? in + own : out;
        c_.reduce_scatter(in, out, n, dtype, reduction);
        return expect(sum, out, me_ * n);
      case OpKind::kAllGather:
        if (in_place) mine(ReduceOp::kSum).write(out + own, n);
        c_.all_gather(in_place ? out + own : in, out, n, dtype);
        return expect_everyones(0);
      case OpKind::kGather:
        if (in_place && is_root) mine(ReduceOp::kSum).write(out + own, n);
        c_.gather(in_place && is_root ? out + own : in, is_root ? out : nullptr, n, dtype, root);
        if (is_root) expect_everyones(0);
        return;
      case OpKind::kScatter:
        c_.scatter(is_root ? in : nullptr, out, n, dtype, root);
        return expect(Pattern::of_rank(root, dtype), out, me_ * n);
      case OpKind::kAllToAll: c_.all_to_all(in, out, n, dtype); return expect_everyones(me_ * n);
      default: return c_.barrier();
    }
  }

  Communicator& c_;
  std::size_t me_;
  Case case_{};
  std::size_t width_ = 1;
  std::vector<std::byte> in_;
  std::vector<std::byte> out_;
};

bool can_be_in_place(OpKind kind) { return reduces(kind) || kind == OpKind::kAllGather || kind == OpKind::kGather; }

/// Arguments: the backend; the largest count. Prints what the backend is and why, and how many operations were right.
LOCKSTEP_WORKER(runs_every_operation) {
  const Job job = join(arguments.at(0));
  const std::size_t largest = std::stoul(arguments.at(1));
  Communicator& communicator = *job.communicator;
  const auto p = static_cast<std::size_t>(communicator.world_size());
  Checker checker(communicator);
  int right = 0;
  const std::vector<std::pair<DType, ReduceOp>> kinds = {{DType::kFloat32, ReduceOp::kSum},
                                                         {DType::kBFloat16, ReduceOp::kAvg},
                                                         {DType::kInt32, ReduceOp::kMax},
                                                         {DType::kFloat64, ReduceOp::kPreMulSum},
                                                         {DType::kUInt8, ReduceOp::kMin}};
  for (const OpKind kind :
       {OpKind::kBarrier, OpKind::kBroadcast, OpKind::kAllReduce, OpKind::kReduce, OpKind::kReduceScatter,
        OpKind::kAllGather, OpKind::kGather, OpKind::kScatter, OpKind::kAllToAll}) {
    for (const auto& [dtype, op] : kinds) {
      for (const std::size_t count : {std::size_t{0}, std::size_t{1}, p - 1, p, p + 1, std::size_t{1031},
                                      std::size_t{20011}, std::size_t{262147}}) {
        if (count > largest || (count > 100000 && dtype != DType::kFloat32)) continue;
        const int roots = !has_root(kind) || count > 2000 ? 1 : static_cast<int>(p);
        for (int root = 0; root < roots; ++root) {
          const int turn = count > 2000 ? (right + root) % static_cast<int>(p) : root;
          for (const bool in_place : {false, true}) {
            if (in_place && !can_be_in_place(kind)) continue;
            checker.run({kind, dtype, op, count, has_root(kind) ? turn : 0, in_place});
            ++right;
          }
        }
        if (kind == OpKind::kBarrier) break;
      }
    }
  }
  communicator.barrier();
  std::cout << communicator.backend_name() << "; " << communicator.backend_reason() << "; " << right << " right"
            << std::endl;
  return 0;
}

struct Bed {
  std::vector<int> ranks_per_host;
  std::string backend;
  std::string is;      ///< the backend that it comes to
  std::string reason;  ///< why
  std::size_t largest = 300000;
  std::string rate = "";
};

std::string name_of_bed(const ::testing::TestParamInfo<Bed>& info) {
  std::string name = info.param.backend;
  for (const int ranks : info.param.ranks_per_host) name += "_" + std::to_string(ranks);
  return info.param.rate.empty() ? name : name + "_" + info.param.rate;
}

class CollectivesOnHosts : public ::testing::TestWithParam<Bed> {};

TEST_P(CollectivesOnHosts, AreExact) {
  LOCKSTEP_NEEDS_HOSTS();
  const Bed& bed = GetParam();
  const auto before = shared_memory_files();
  const Hosts hosts(static_cast<int>(bed.ranks_per_host.size()), {.rate = bed.rate});
  const ProcessResult result =
      run_on_hosts(hosts, bed.ranks_per_host, "runs_every_operation", {bed.backend, std::to_string(bed.largest)});
  ASSERT_TRUE(result.ok()) << result;
  for (const auto& end : result.ranks) EXPECT_THAT(end.out, HasSubstr(bed.is + "; " + bed.reason + "; ")) << result;
  EXPECT_EQ(shared_memory_files(), before);
}

INSTANTIATE_TEST_SUITE_P(
    Beds, CollectivesOnHosts,
    ::testing::Values(
        Bed{{1, 1}, "gloo", "gloo", "asked for by name"}, Bed{{2, 2}, "gloo", "gloo", "asked for by name"},
        Bed{{1, 2, 3}, "gloo", "gloo", "asked for by name"}, Bed{{2, 1, 2, 1}, "gloo", "gloo", "asked for by name"},
        Bed{{1, 1}, "hier", "hier", "asked for by name"}, Bed{{2, 2}, "hier", "hier", "asked for by name"},
        Bed{{1, 2, 3}, "hier", "hier", "asked for by name"}, Bed{{2, 1, 2, 1}, "hier", "hier", "asked for by name"},
        Bed{{1, 1}, "auto", "gloo", "2 ranks on 2 hosts: gloo", 2000},
        Bed{{2, 1, 2, 1}, "auto", "hier", "6 ranks on 4 hosts: shared memory inside each, gloo between them", 2000},
        Bed{{2}, "auto", "shm", "2 ranks on 1 host: shared memory", 2000},
        Bed{{2, 2}, "gloo", "gloo", "asked for by name", 2000, "100mbit"},
        Bed{{2, 2}, "hier", "hier", "asked for by name", 2000, "100mbit"}),
    name_of_bed);

/// Arguments: the backend; a seed; steps.
LOCKSTEP_WORKER(runs_random_operations) {
  const Job job = join(arguments.at(0));
  support::RandomOptions options;
  options.max_count = 20000;
  support::RandomOperations run(job.communicator, static_cast<unsigned>(std::stoul(arguments.at(1))), options);
  for (int step = 0; step < std::stoi(arguments.at(2)); ++step) run.step();
  run.drain();
  job.communicator->barrier();
  return 0;
}

TEST(RandomOperationsOnHosts, AreExactInGroupsOfEveryKind) {
  LOCKSTEP_NEEDS_HOSTS();
  const auto before = shared_memory_files();
  const Hosts hosts(3);
  unsigned seed = 4711;
  for (const char* backend : {"gloo", "hier", "auto"}) {
    const ProcessResult result =
        run_on_hosts(hosts, {2, 1, 2}, "runs_random_operations", {backend, std::to_string(++seed), "300"});
    EXPECT_TRUE(result.ok()) << backend << result;
  }
  EXPECT_EQ(shared_memory_files(), before);
}

/// Groups of the world that auto chooses for, of ranks {0, 1 | 2 | 3, 4}; prints each with what it got.
LOCKSTEP_WORKER(makes_groups_of_every_kind) {
  const Job job = join("auto");
  const int rank = job.communicator->rank();
  for (const std::vector<int>& ranks :
       std::vector<std::vector<int>>{{1, 0}, {4, 3}, {0, 2, 4}, {4, 0, 1}, {2, 3, 4}, {0, 1, 3, 4}, {2}}) {
    if (std::ranges::find(ranks, rank) == ranks.end()) continue;
    const auto group = new_group(*job.communicator, ranks);
    std::int32_t sum = rank;
    group->all_reduce(&sum, &sum, 1, DType::kInt32);
    if (sum != std::accumulate(ranks.begin(), ranks.end(), 0)) return 1;
    std::cout << group->name() << ": " << group->backend_name() << ": " << group->backend_reason() << std::endl;
  }
  job.communicator->barrier();
  return 0;
}

TEST(RandomOperationsOnHosts, EachGroupHasTheBackendOfItsPlaces) {
  LOCKSTEP_NEEDS_HOSTS();
  const Hosts hosts(3);
  const ProcessResult result = run_on_hosts(hosts, {2, 1, 2}, "makes_groups_of_every_kind");
  ASSERT_TRUE(result.ok()) << result;
  const std::string both = "shared memory inside each, gloo between them\n";
  const std::string on_host_1 = "world{1,0}: shm: 2 ranks on 1 host: shared memory\n";
  const std::string on_host_3 = "world{4,3}: shm: 2 ranks on 1 host: shared memory\n";
  const std::string one_each = "world{0,2,4}: gloo: 3 ranks on 3 hosts: gloo\n";
  const std::string mixed = "world{4,0,1}: hier: 3 ranks on 2 hosts: " + both;
  const std::string other = "world{2,3,4}: hier: 3 ranks on 2 hosts: " + both;
  const std::string pairs = "world{0,1,3,4}: hier: 4 ranks on 2 hosts: " + both;
  EXPECT_EQ(result.ranks[0].out, on_host_1 + one_each + mixed + pairs);
  EXPECT_EQ(result.ranks[1].out, on_host_1 + mixed + pairs);
  EXPECT_EQ(result.ranks[2].out, one_each + other + "world{2}: self: one rank\n");
  EXPECT_EQ(result.ranks[3].out, on_host_3 + other + pairs);
  EXPECT_EQ(result.ranks[4].out, on_host_3 + one_each + mixed + other + pairs);
}

}  // namespace
}  // namespace lockstep::net
