#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "apps/lockstep/bench/explain.h"
#include "apps/lockstep/bench/model.h"
#include "apps/lockstep/bench/pattern.h"
#include "apps/lockstep/bench/sweep.h"
#include "lockstep/core/base/error.h"

namespace lockstep::bench {
namespace {

std::vector<std::size_t> counts_of(const SweepOptions& options) {
  std::vector<std::size_t> counts;
  for (const SizePlan& size : plan_sizes(options)) counts.push_back(size.count);
  return counts;
}

TEST(BenchSizes, GrowByTheFactorAndStopAtTheLargest) {
  EXPECT_EQ(counts_of({.min_bytes = 4, .max_bytes = 300, .step_factor = 4}), (std::vector<std::size_t>{1, 4, 16, 64}));
}

TEST(BenchSizes, AreWholeElementsPerRankAndListedOnce) {
  const SweepOptions options{
      .op = OpKind::kAllGather, .world_size = 3, .min_bytes = 1, .max_bytes = 64, .step_factor = 2};
  const auto sizes = plan_sizes(options);
  EXPECT_EQ(counts_of(options), (std::vector<std::size_t>{1, 2, 5}));
  EXPECT_EQ(sizes.back().bytes, 60u);
}

TEST(BenchSizes, ABarrierHasOne) {
  const auto sizes = plan_sizes({.op = OpKind::kBarrier});
  ASSERT_EQ(sizes.size(), 1u);
  EXPECT_EQ(sizes.front().bytes, 0u);
}

constexpr OpKind kAllOps[] = {OpKind::kAllReduce, OpKind::kReduce,  OpKind::kReduceScatter, OpKind::kAllGather,
                              OpKind::kGather,    OpKind::kScatter, OpKind::kBroadcast,     OpKind::kAllToAll,
                              OpKind::kBarrier,   OpKind::kSend};

TEST(BenchOperations, AreParsedByTheNameThatTheyPrint) {
  for (const OpKind op : kAllOps) {
    EXPECT_EQ(parse_op_kind(bench_name(op)), op);
    EXPECT_NE(known_operations().find(bench_name(op)), std::string::npos);
  }
  EXPECT_EQ(bench_name(OpKind::kSend), "sendrecv");
  for (const char* name : {"send", "allocate", "allreduce", ""}) EXPECT_THROW(parse_op_kind(name), UsageError) << name;
}

TEST(BenchOperations, CountTheirBytesAsNcclTestsDo) {
  const auto count = [](OpKind op) {
    return plan_sizes({.op = op, .world_size = 4, .min_bytes = 4096, .max_bytes = 4096}).front().count;
  };
  for (const OpKind op : {OpKind::kAllReduce, OpKind::kReduce, OpKind::kBroadcast, OpKind::kSend}) {
    EXPECT_EQ(count(op), 1024u) << bench_name(op);
    EXPECT_EQ(bus_factor(op, 4), op == OpKind::kAllReduce ? 1.5 : 1) << bench_name(op);
  }
  for (const OpKind op :
       {OpKind::kReduceScatter, OpKind::kAllGather, OpKind::kGather, OpKind::kScatter, OpKind::kAllToAll}) {
    EXPECT_EQ(count(op), 256u) << bench_name(op);
    EXPECT_EQ(bus_factor(op, 4), 0.75) << bench_name(op);
  }
}

/// A group of one rank, for which every operation is a copy; every `spoil_every`-th call leaves one element wrong.
class CopyEngine final : public Engine {
 public:
  explicit CopyEngine(int spoil_every) : spoil_every_(spoil_every) {}
  int rank() const override { return 0; }
  void* allocate(std::size_t nbytes) override {
    return memory_.emplace_back(std::make_unique<std::byte[]>(nbytes)).get();
  }
  void barrier() override {}
  void broadcast(void* data, std::size_t count) override { spoil(data, count); }
  void all_reduce(void* data, std::size_t count) override { spoil(data, count); }
  void reduce(const void* input, void* output, std::size_t count) override { copy(input, output, count); }
  void reduce_scatter(const void* input, void* output, std::size_t count) override { copy(input, output, count); }
  void all_gather(const void* input, void* output, std::size_t count) override { copy(input, output, count); }
  void gather(const void* input, void* output, std::size_t count) override { copy(input, output, count); }
  void scatter(const void* input, void* output, std::size_t count) override { copy(input, output, count); }
  void all_to_all(const void* input, void* output, std::size_t count) override { copy(input, output, count); }
  void sendrecv(const void* input, void* output, std::size_t count) override { copy(input, output, count); }
  void gather_doubles(const double* mine, double* all, std::size_t count) override {
    std::memcpy(all, mine, count * sizeof(double));
  }

 private:
  void copy(const void* input, void* output, std::size_t count) {
    std::memcpy(output, input, count * sizeof(float));
    spoil(output, count);
  }
  void spoil(void* data, std::size_t count) {
    if (spoil_every_ != 0 && ++calls_ % spoil_every_ == 0) static_cast<float*>(data)[count / 2] += 1;
  }

  int spoil_every_;
  int calls_ = 0;
  std::vector<std::unique_ptr<std::byte[]>> memory_;
};

TEST(BenchSweep, ChecksEveryOperation) {
  for (const OpKind op : kAllOps) {
    if (op == OpKind::kBarrier) continue;  // It has no values.
    for (const int spoil_every : {0, 1}) {
      CopyEngine engine(spoil_every);
      const SweepOptions options{.op = op,
                                 .world_size = 1,
                                 .min_bytes = 4,
                                 .max_bytes = 4 << 10,
                                 .step_factor = 32,
                                 .seconds_per_size = 0.001};
      std::vector<SizeResult> results;
      run_sweep(engine, options, [&results](const SizeResult& result) { results.push_back(result); });
      ASSERT_EQ(results.size(), 3u);
      for (const SizeResult& result : results) {
        EXPECT_EQ(result.wrong, spoil_every == 0 ? 0u : 2u) << bench_name(op);  // In both checked calls.
        EXPECT_GE(result.samples, 20u);
      }
    }
  }
}

TEST(BenchExplain, AsksForWhatASweepWouldTime) {
  const SweepOptions options{.op = OpKind::kReduceScatter,
                             .world_size = 4,
                             .min_bytes = 64,
                             .max_bytes = 64,
                             .dtype = DType::kFloat64,
                             .reduce_op = ReduceOp::kMax};
  const Collective collective = collective_of(options, plan_sizes(options).front());
  EXPECT_EQ(describe(collective), "reduce_scatter #0 (2 f64, max)");
  require_explainable(options);
  EXPECT_THROW(require_explainable({.op = OpKind::kSend}), UsageError);
  EXPECT_THROW(require_explainable({.world_size = 1}), UsageError);
}

TEST(BenchExplain, PrintsThePathThatWasChosen) {
  const SizePaths row{{4096, 1024}, {{"flat", 0.5, 1, false}, {"staged", 0.25, 3, true}}};
  EXPECT_EQ(to_json(RowContext{"lockstep", "user", {}}, row),
            R"({"event":"plan","op":"all_reduce","memory":"user","nproc":2,"bytes":4096,"count":1024,"dtype":"f32",)"
            R"("path":"staged","steps":3,"us":{"flat":0.5,"staged":0.25}})");
}

TEST(BenchPattern, SumsWhatTheRanksContribute) {
  constexpr std::size_t kCount = 1000;
  std::vector<std::int32_t> sum(kCount, 0);
  for (int rank = 0; rank < 3; ++rank) {
    std::vector<std::int32_t> input(kCount);
    Pattern::input(DType::kInt32, ReduceOp::kSum, rank, 3).fill(input.data(), 17, kCount);
    for (std::size_t i = 0; i < kCount; ++i) sum[i] += input[i];
  }
  EXPECT_EQ(Pattern::reduced(DType::kInt32, ReduceOp::kSum, 3).count_wrong(sum.data(), 17, kCount), 0u);
}

TEST(BenchPattern, CountsEveryWrongElement) {
  constexpr std::size_t kCount = 100'003;
  const Pattern pattern = Pattern::input(DType::kFloat32, ReduceOp::kSum, 1, 2);
  std::vector<float> data(kCount);
  pattern.fill(data.data(), 0, kCount);
  EXPECT_EQ(pattern.count_wrong(data.data(), 0, kCount), 0u);
  for (const std::size_t at : {std::size_t{0}, std::size_t{4096}, kCount - 1}) data[at] += 1;
  EXPECT_EQ(pattern.count_wrong(data.data(), 0, kCount), 3u);
}

TEST(BenchPattern, TellsRanksApart) {
  std::vector<float> data(1000);
  Pattern::input(DType::kFloat32, ReduceOp::kSum, 0, 2).fill(data.data(), 0, data.size());
  EXPECT_GT(Pattern::input(DType::kFloat32, ReduceOp::kSum, 1, 2).count_wrong(data.data(), 0, data.size()), 500u);
}

TEST(BenchOptions, ParsesSizes) {
  EXPECT_EQ(parse_bytes("4"), 4u);
  EXPECT_EQ(parse_bytes("64K"), 65536u);
  EXPECT_EQ(parse_bytes("3MiB"), 3u << 20);
  EXPECT_EQ(format_bytes(parse_bytes("256M")), "256 MiB");
  for (const char* text : {"", "K", "4k", "4Kb", "-1", "99999999999G"})
    EXPECT_THROW(parse_bytes(text), UsageError) << text;
}

TEST(BenchOptions, RefusesWhatItCannotMeasure) {
  EXPECT_NO_THROW(validate({.reduce_op = ReduceOp::kAvg}));
  EXPECT_THROW(validate({.dtype = DType::kInt32, .reduce_op = ReduceOp::kAvg}), UsageError);
  EXPECT_THROW(validate({.reduce_op = ReduceOp::kPreMulSum}), UsageError);
}

TEST(BenchModel, TakesTheLesserOfThePlans) {
  MachineLimits limits;
  limits.measured = true;
  limits.cpus = 2;
  limits.handoff_ns = 100;
  limits.remote = {{16 << 10, 10, 10}, {1 << 20, 10, 10}};
  const SweepOptions options;
  // One hand-off while it is cheaper to send all of it than to wait twice: 0.1 + 4 B / 10 GB/s.
  EXPECT_NEAR(*model_us(options, MemoryKind::kBackend, 4, limits), 0.1004, 1e-6);
  // Two hand-offs and half of the vector.
  EXPECT_NEAR(*model_us(options, MemoryKind::kBackend, 1'000'000, limits), 0.2 + 50, 1e-6);
  EXPECT_GT(*model_us(options, MemoryKind::kUser, 1'000'000, limits),
            *model_us(options, MemoryKind::kBackend, 1'000'000, limits));
  EXPECT_FALSE(model_us({.world_size = 1}, MemoryKind::kBackend, 4, limits).has_value());
  // Ranks that share CPUs are bound by the scheduler.
  EXPECT_FALSE(model_us({.world_size = 3}, MemoryKind::kBackend, 4, limits).has_value());
  EXPECT_FALSE(model_us(options, MemoryKind::kBackend, 4, MachineLimits{}).has_value());
}

TEST(BenchModel, BoundsEveryOperationByWhatItMustMove) {
  MachineLimits limits;
  limits.measured = true;
  limits.cpus = 4;
  limits.handoff_ns = 100;
  limits.remote = {{16 << 10, 10, 20}, {64 << 20, 10, 20}};  // GB/s: 1 MB is read in 100 us, written in 50 us
  const auto us = [&limits](OpKind op, MemoryKind memory) {
    return *model_us({.op = op, .world_size = 4}, memory, 1'000'000, limits);
  };
  const auto backend = [&us](OpKind op) { return us(op, MemoryKind::kBackend); };
  const auto user = [&us](OpKind op) { return us(op, MemoryKind::kUser); };
  EXPECT_NEAR(backend(OpKind::kReduce), 0.2 + 75, 1e-6);
  EXPECT_NEAR(user(OpKind::kReduce), 0.2 + 37.5 + 150, 1e-6);
  for (const OpKind op : {OpKind::kReduceScatter, OpKind::kAllGather, OpKind::kGather, OpKind::kAllToAll}) {
    EXPECT_NEAR(backend(op), 0.1 + 75, 1e-6) << bench_name(op);
  }
  EXPECT_NEAR(user(OpKind::kReduceScatter), 0.1 + 75 + 37.5, 1e-6);
  EXPECT_NEAR(user(OpKind::kAllToAll), 0.1 + 75 + 37.5, 1e-6);
  EXPECT_NEAR(user(OpKind::kAllGather), 0.1 + 75 + 12.5, 1e-6);
  EXPECT_NEAR(user(OpKind::kGather), 0.1 + 75, 1e-6);
  EXPECT_NEAR(backend(OpKind::kScatter), 0.1 + 25, 1e-6);
  EXPECT_NEAR(user(OpKind::kScatter), 0.1 + 37.5, 1e-6);
  EXPECT_NEAR(backend(OpKind::kBroadcast), 0.2 + 25, 1e-6);
  EXPECT_NEAR(user(OpKind::kBroadcast), 0.1 + 100, 1e-6);
  EXPECT_NEAR(backend(OpKind::kSend), 0.1 + 100, 1e-6);
  EXPECT_NEAR(user(OpKind::kSend), 0.1 + 150, 1e-6);
  EXPECT_NEAR(backend(OpKind::kBarrier), 0.1, 1e-9);
}

}  // namespace
}  // namespace lockstep::bench
