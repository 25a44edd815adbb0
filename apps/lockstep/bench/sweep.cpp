// The measuring loop. Habits of nccl-tests: warm up, check every size against exact inputs, slowest rank counts.
//
// In fresh mode each rank rewrites its own contribution and passes a barrier before each timed call, so that the data
// lies in its owner's cache as a gradient does after backward. Without it an algorithm that leaves each slice with the
// rank that reduces it never moves a line between cores, and looks better than any training job would find it.

#include "apps/lockstep/bench/sweep.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "apps/lockstep/bench/pattern.h"

namespace lockstep::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr int kMaxSamples = 10000;
constexpr double kBatchSeconds = 20e-6;  // Back-to-back calls shorter than this are timed in batches.
constexpr int kMaxBatch = 100;
constexpr double kSlowSeconds = 10e-3;  // Of a small message: ranks that share CPUs wait for the scheduler's turns.
constexpr int kPoison = 0x5A;

double seconds_since(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

int max_warm_up_calls(std::size_t bytes) {
  if (bytes <= std::size_t{64} << 10) return 100;
  return bytes <= std::size_t{1} << 20 ? 20 : 3;
}

/// Taken whatever they cost: fewer than these have no median worth printing.
int min_samples(std::size_t bytes, double cycle_seconds) {
  if (bytes <= std::size_t{1} << 20 && cycle_seconds < kSlowSeconds) return 20;
  return bytes < std::size_t{256} << 20 ? 5 : 3;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::size_t input_bytes(const SweepOptions& options, std::size_t bytes) {
  const bool gathers = options.op == OpKind::kAllGather || options.op == OpKind::kGather;
  return gathers ? bytes / static_cast<std::size_t>(options.world_size) : bytes;
}

std::size_t output_bytes(const SweepOptions& options, std::size_t bytes) {
  switch (options.op) {
    case OpKind::kReduceScatter:
    case OpKind::kScatter: return bytes / static_cast<std::size_t>(options.world_size);
    case OpKind::kReduce:
    case OpKind::kAllGather:
    case OpKind::kGather:
    case OpKind::kAllToAll:
    case OpKind::kSend: return bytes;
    default: return 0;  // In place, or nothing.
  }
}

/// Where a rank has or gets one chunk of the vector: `count` is of a chunk.
bool is_chunked(OpKind op) {
  return op == OpKind::kReduceScatter || op == OpKind::kAllGather || op == OpKind::kGather || op == OpKind::kScatter ||
         op == OpKind::kAllToAll;
}

/// One size on one rank.
class SizeRun {
 public:
  SizeRun(Engine& engine, const SweepOptions& options, SizePlan size, void* input, void* output)
      : engine_(engine),
        options_(options),
        size_(size),
        input_(input),
        output_(output),
        contribution_(Pattern::input(options.dtype, options.reduce_op, engine.rank(), options.world_size)) {}

  SizeResult measure() {
    SizeResult result;
    result.size = size_;
    std::uint64_t wrong = checked_call();
    const double cycle = estimate_cycle();
    const int batch = options_.fresh ? 1 : static_cast<int>(std::clamp(kBatchSeconds / cycle, 1.0, 1.0 * kMaxBatch));
    const double wanted = options_.seconds_per_size / (cycle * batch);
    const double least = min_samples(size_.bytes, cycle);
    const auto samples = static_cast<std::size_t>(std::clamp(wanted, least, 1.0 * kMaxSamples));
    std::vector<double> times(samples);
    if (!options_.fresh) clear();
    for (double& time : times) time = options_.fresh ? timed_fresh_call() : timed_batch(batch);
    wrong += checked_call();
    reduce_over_ranks(times);
    std::sort(times.begin(), times.end());
    result.samples = samples;
    result.min_us = times.front() * 1e6;
    result.p50_us = times[samples / 2] * 1e6;
    result.p99_us = times[std::min(samples - 1, samples * 99 / 100)] * 1e6;
    result.wrong = total_over_ranks(wrong);
    return result;
  }

 private:
  void call() {
    switch (options_.op) {
      case OpKind::kAllReduce: return engine_.all_reduce(input_, size_.count);
      case OpKind::kReduce: return engine_.reduce(input_, output_, size_.count);
      case OpKind::kReduceScatter: return engine_.reduce_scatter(input_, output_, size_.count);
      case OpKind::kAllGather: return engine_.all_gather(input_, output_, size_.count);
      case OpKind::kGather: return engine_.gather(input_, output_, size_.count);
      case OpKind::kScatter: return engine_.scatter(input_, output_, size_.count);
      case OpKind::kBroadcast: return engine_.broadcast(input_, size_.count);
      case OpKind::kAllToAll: return engine_.all_to_all(input_, output_, size_.count);
      case OpKind::kSend: return engine_.sendrecv(input_, output_, size_.count);
      default: return engine_.barrier();
    }
  }

  void rewrite() {
    if (size_.bytes == 0 || (options_.op == OpKind::kScatter && engine_.rank() != 0)) return;
    contribution_.fill(input_, 0, input_bytes(options_, size_.bytes) / size_of(options_.dtype));
  }

  /// Zeros stay zeros, however often they are added to each other in place.
  void clear() {
    if (size_.bytes != 0) std::memset(input_, 0, input_bytes(options_, size_.bytes));
  }

  double timed_fresh_call() {
    rewrite();
    engine_.barrier();
    const auto start = SteadyClock::now();
    call();
    return seconds_since(start);
  }

  double timed_batch(int batch) {
    const auto start = SteadyClock::now();
    for (int i = 0; i < batch; ++i) call();
    return seconds_since(start) / batch;
  }

  /// Warms up; returns the slowest rank's median time per sample, preparation included, so that all ranks plan alike
  /// and one preempted call does not decide.
  double estimate_cycle() {
    if (!options_.fresh) clear();
    // A first few say how many more there is time for.
    const int first = size_.bytes <= std::size_t{1} << 20 ? 5 : 1;
    const double cycle = typical_cycle(first);
    const double affordable = std::min(options_.seconds_per_size / 4 / cycle, 1.0 * max_warm_up_calls(size_.bytes));
    return affordable < first ? cycle : typical_cycle(static_cast<int>(affordable));
  }

  double typical_cycle(int calls) {
    std::vector<double> cycles(static_cast<std::size_t>(calls));
    for (double& cycle : cycles) {
      const auto start = SteadyClock::now();
      options_.fresh ? timed_fresh_call() : timed_batch(1);
      cycle = seconds_since(start);
    }
    std::vector<double> typical = {median(cycles)};
    reduce_over_ranks(typical);
    return std::max(typical.front(), 1e-8);
  }

  /// An untimed call on fresh inputs and a poisoned output; returns this rank's wrong elements.
  std::uint64_t checked_call() {
    rewrite();
    if (output_ != nullptr) std::memset(output_, kPoison, output_bytes(options_, size_.bytes));
    engine_.barrier();
    call();
    return count_wrong();
  }

  Pattern input_of(int rank) const {
    return Pattern::input(options_.dtype, options_.reduce_op, rank, options_.world_size);
  }

  std::uint64_t count_wrong() const {
    const int rank = engine_.rank();
    const std::size_t own_chunk = static_cast<std::size_t>(rank) * size_.count;
    const auto reduced = [this] { return Pattern::reduced(options_.dtype, options_.reduce_op, options_.world_size); };
    switch (options_.op) {
      case OpKind::kAllReduce: return reduced().count_wrong(input_, 0, size_.count);
      case OpKind::kReduce: return rank == 0 ? reduced().count_wrong(output_, 0, size_.count) : 0;
      case OpKind::kReduceScatter: return reduced().count_wrong(output_, own_chunk, size_.count);
      case OpKind::kAllGather: return count_wrong_chunks(0);
      case OpKind::kGather: return rank == 0 ? count_wrong_chunks(0) : 0;
      case OpKind::kScatter: return input_of(0).count_wrong(output_, own_chunk, size_.count);
      case OpKind::kBroadcast: return input_of(0).count_wrong(input_, 0, size_.count);
      case OpKind::kAllToAll: return count_wrong_chunks(own_chunk);
      case OpKind::kSend:
        return input_of((rank + options_.world_size - 1) % options_.world_size).count_wrong(output_, 0, size_.count);
      default: return 0;
    }
  }

  /// Of an output whose r-th chunk holds what rank r had from element `first` on.
  std::uint64_t count_wrong_chunks(std::size_t first) const {
    std::uint64_t wrong = 0;
    const std::size_t chunk_bytes = size_.count * size_of(options_.dtype);
    for (int peer = 0; peer < options_.world_size; ++peer) {
      const auto* chunk = static_cast<const std::byte*>(output_) + static_cast<std::size_t>(peer) * chunk_bytes;
      wrong += input_of(peer).count_wrong(chunk, first, size_.count);
    }
    return wrong;
  }

  /// times[i] = the largest of all ranks' times[i].
  void reduce_over_ranks(std::vector<double>& times) {
    const std::size_t samples = times.size();
    std::vector<double> all(samples * static_cast<std::size_t>(options_.world_size));
    engine_.gather_doubles(times.data(), all.data(), samples);
    for (std::size_t i = 0; i < all.size(); ++i) times[i % samples] = std::max(times[i % samples], all[i]);
  }

  std::uint64_t total_over_ranks(std::uint64_t mine) {
    const auto value = static_cast<double>(mine);
    std::vector<double> all(static_cast<std::size_t>(options_.world_size));
    engine_.gather_doubles(&value, all.data(), 1);
    double total = 0;
    for (const double each : all) total += each;
    return static_cast<std::uint64_t>(total);
  }

  Engine& engine_;
  const SweepOptions& options_;
  SizePlan size_;
  void* input_;
  void* output_;
  Pattern contribution_;
};

}  // namespace

std::vector<SizePlan> plan_sizes(const SweepOptions& options) {
  if (options.op == OpKind::kBarrier) return {SizePlan{}};
  const std::size_t parts = is_chunked(options.op) ? static_cast<std::size_t>(options.world_size) : 1;
  const std::size_t unit = size_of(options.dtype) * parts;
  const auto factor = static_cast<std::size_t>(options.step_factor);
  std::vector<SizePlan> sizes;
  for (std::size_t bytes = options.min_bytes;; bytes *= factor) {
    const std::size_t count = std::max<std::size_t>(1, bytes / unit);
    if (sizes.empty() || sizes.back().count != count) sizes.push_back({count * unit, count});
    if (bytes > options.max_bytes / factor) return sizes;
  }
}

void run_sweep(Engine& engine, const SweepOptions& options, const std::function<void(const SizeResult&)>& on_result) {
  const std::vector<SizePlan> sizes = plan_sizes(options);
  const std::size_t largest = sizes.back().bytes;
  void* input = largest == 0 ? nullptr : engine.allocate(input_bytes(options, largest));
  const std::size_t output_size = output_bytes(options, largest);
  void* output = output_size == 0 ? nullptr : engine.allocate(output_size);
  for (const SizePlan& size : sizes) on_result(SizeRun(engine, options, size, input, output).measure());
}

double bus_factor(OpKind op, int world_size) {
  const double share = (world_size - 1.0) / world_size;
  if (op == OpKind::kAllReduce) return 2 * share;
  return is_chunked(op) ? share : 1;
}

}  // namespace lockstep::bench
