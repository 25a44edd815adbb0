// The element-wise kernels against what bounds them: the C library's memcpy of the same bytes, and the loop that one
// would write without them, in one run, so that the ratios hold on a noisy machine.
//
//   kernel_bench --benchmark_enable_random_interleaving=true --benchmark_repetitions=5
//
// bytes_per_second counts the bytes of one buffer, as for memcpy: a kernel of n sources and m destinations moves n + m
// times as much. from_peer/ is what an all-reduce does: two threads fill a buffer each and then reduce half of both in
// place, so that half of every kernel's input comes from the other core's cache. from_peers/ is one rank's part of it
// among several: the other core fills all sources but the first. Only the reductions count, and
// undisturbed_bytes_per_second, of the tenth percentile of the times, is the figure to read: the mean includes every
// interruption of either thread.
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <span>
#include <thread>
#include <vector>

#include <benchmark/benchmark.h>

#include "lockstep/core/kernels/kernels.h"

namespace {

using lockstep::DType;
using lockstep::ReduceOp;
namespace kernels = lockstep::kernels;

constexpr std::int64_t kSmallest = 1 << 10;
constexpr std::int64_t kLargest = 64 << 20;

/// Page-aligned bytes, touched once and valid in every dtype.
class Buffer {
 public:
  explicit Buffer(std::size_t nbytes) : data_(new (kAlignment) std::byte[nbytes]()) {}
  void* get() const { return data_.get(); }
  float* floats() const { return static_cast<float*>(get()); }

 private:
  static constexpr std::align_val_t kAlignment{4096};
  struct Free {
    void operator()(std::byte* data) const { ::operator delete[](data, kAlignment); }
  };
  std::unique_ptr<std::byte[], Free> data_;
};

std::size_t bytes_of(const benchmark::State& state) { return static_cast<std::size_t>(state.range(0)); }

void count_bytes(benchmark::State& state) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * state.range(0));
}

void memcpy_baseline(benchmark::State& state) {
  const Buffer from(bytes_of(state));
  const Buffer to(bytes_of(state));
  for (auto _ : state) {
    std::memcpy(to.get(), from.get(), bytes_of(state));
    benchmark::ClobberMemory();
  }
  count_bytes(state);
}

void copy(benchmark::State& state) {
  const Buffer from(bytes_of(state));
  const Buffer to(bytes_of(state));
  for (auto _ : state) {
    kernels::copy(to.get(), from.get(), bytes_of(state));
    benchmark::ClobberMemory();
  }
  count_bytes(state);
}

/// What the compiler makes of the obvious loop; the buffers may be the same, so it cannot assume that they differ.
[[gnu::noinline]] void plain_sum(float* a, float* b, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const float sum = a[i] + b[i];
    a[i] = sum;
    b[i] = sum;
  }
}

void plain_loop_2to2(benchmark::State& state) {
  const Buffer a(bytes_of(state));
  const Buffer b(bytes_of(state));
  for (auto _ : state) {
    plain_sum(a.floats(), b.floats(), bytes_of(state) / sizeof(float));
    benchmark::ClobberMemory();
  }
  count_bytes(state);
}

struct Shape {
  DType dtype;
  ReduceOp op;
  std::size_t sources;
  std::size_t destinations;  ///< in place: the first so many sources
};

/// The buffers of a reduction, and a factor for each, where they are wanted.
class Operands {
 public:
  Operands(const Shape& shape, std::size_t nbytes)
      : shape_(shape), count_(nbytes / lockstep::size_of(shape.dtype)), factors_(shape.sources, 1.0) {
    for (std::size_t s = 0; s < shape.sources; ++s) {
      buffers_.emplace_back(nbytes);
      addresses_.push_back(buffers_.back().get());
    }
    sources_.assign(addresses_.begin(), addresses_.end());
  }

  const std::vector<void*>& addresses() const { return addresses_; }
  void reduce() const {
    kernels::reduce(sources_, std::span(addresses_).first(shape_.destinations), count_,
                    {shape_.dtype, shape_.op, static_cast<int>(shape_.sources), factors_});
  }

 private:
  Shape shape_;
  std::size_t count_;
  std::vector<double> factors_;
  std::vector<Buffer> buffers_;
  std::vector<void*> addresses_;
  std::vector<const void*> sources_;
};

void reduce(benchmark::State& state, const Shape& shape) {
  const Operands operands(shape, bytes_of(state));
  for (auto _ : state) {
    operands.reduce();
    benchmark::ClobberMemory();
  }
  count_bytes(state);
}

using HalfReduction = void (*)(float* a, float* b, std::size_t count);

void kernel_sum(float* a, float* b, std::size_t count) {
  const void* const sources[] = {a, b};
  void* const destinations[] = {a, b};
  kernels::reduce(sources, destinations, count, {DType::kFloat32, ReduceOp::kSum});
}

void pin_to(int core) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(core, &cores);
  pthread_setaffinity_np(pthread_self(), sizeof cores, &cores);
}

/// Two threads that meet; the benchmark needs two cores of its own.
class Meeting {
 public:
  void wait() {
    const int round = arrived_.fetch_add(1, std::memory_order_acq_rel) / 2;
    for (int spins = 1; arrived_.load(std::memory_order_acquire) < 2 * (round + 1); ++spins) {
      if (spins % 4096 == 0) std::this_thread::yield();
    }
  }

 private:
  std::atomic<int> arrived_{0};
};

/// What one of two cores does: fill its buffers while the other fills its own, then, at the same time again, reduce.
struct Part {
  std::function<void()> fill;
  std::function<void()> reduce;
};

/// Times the reductions, from the moment that both have filled until both have reduced.
void on_two_cores(benchmark::State& state, const Part& own, const Part& other) {
  if (std::thread::hardware_concurrency() < 2) return state.SkipWithError("needs two cores");
  Meeting meeting;
  std::atomic<bool> over{false};
  std::thread peer([&] {
    pin_to(1);
    for (;;) {
      other.fill();
      meeting.wait();
      if (over.load(std::memory_order_acquire)) return;
      other.reduce();
      meeting.wait();
    }
  });
  cpu_set_t before;
  pthread_getaffinity_np(pthread_self(), sizeof before, &before);
  pin_to(0);
  std::vector<double> seconds;
  for (auto _ : state) {
    own.fill();
    meeting.wait();
    const auto start = std::chrono::steady_clock::now();
    own.reduce();
    meeting.wait();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    state.SetIterationTime(seconds.back());
  }
  over.store(true, std::memory_order_release);
  meeting.wait();
  peer.join();
  pthread_setaffinity_np(pthread_self(), sizeof before, &before);
  count_bytes(state);
  const auto decile = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 10);
  std::nth_element(seconds.begin(), decile, seconds.end());
  state.counters["undisturbed_bytes_per_second"] = static_cast<double>(state.range(0)) / *decile;
}

void from_peer(benchmark::State& state, HalfReduction half) {
  const Buffer a(bytes_of(state));
  const Buffer b(bytes_of(state));
  const std::size_t count = bytes_of(state) / sizeof(float);
  const auto fill = [count](const Buffer& buffer) { std::fill_n(buffer.floats(), count, 1.0F); };
  on_two_cores(state, {[&] { fill(a); }, [&] { half(a.floats(), b.floats(), count / 2); }},
               {[&] { fill(b); }, [&] { half(a.floats() + count / 2, b.floats() + count / 2, count - count / 2); }});
}

void from_peers(benchmark::State& state, const Shape& shape) {
  const std::size_t nbytes = bytes_of(state);
  const Operands operands(shape, nbytes);
  const std::vector<void*>& buffers = operands.addresses();
  const auto fill_others = [&] {
    for (std::size_t s = 1; s < buffers.size(); ++s) std::memset(buffers[s], 0, nbytes);
  };
  on_two_cores(state, {[&] { std::memset(buffers[0], 0, nbytes); }, [&] { operands.reduce(); }}, {fill_others, [] {}});
}

#define LS_SIZES RangeMultiplier(4)->Range(kSmallest, kLargest)
BENCHMARK(memcpy_baseline)->LS_SIZES;
BENCHMARK(copy)->LS_SIZES;
BENCHMARK(plain_loop_2to2)->LS_SIZES;
BENCHMARK_CAPTURE(reduce, f32_sum_2to1, Shape{DType::kFloat32, ReduceOp::kSum, 2, 1})->LS_SIZES;
BENCHMARK_CAPTURE(reduce, f32_sum_2to2, Shape{DType::kFloat32, ReduceOp::kSum, 2, 2})->LS_SIZES;
BENCHMARK_CAPTURE(reduce, f32_sum_3to1, Shape{DType::kFloat32, ReduceOp::kSum, 3, 1})->LS_SIZES;
BENCHMARK_CAPTURE(reduce, f32_sum_4to1, Shape{DType::kFloat32, ReduceOp::kSum, 4, 1})->LS_SIZES;
BENCHMARK_CAPTURE(reduce, f32_sum_4to4, Shape{DType::kFloat32, ReduceOp::kSum, 4, 4})->LS_SIZES;
BENCHMARK_CAPTURE(reduce, f32_sum_8to1, Shape{DType::kFloat32, ReduceOp::kSum, 8, 1})->LS_SIZES;
BENCHMARK_CAPTURE(reduce, f32_avg_2to1, Shape{DType::kFloat32, ReduceOp::kAvg, 2, 1})->LS_SIZES;
BENCHMARK_CAPTURE(reduce, f32_avg_2to2, Shape{DType::kFloat32, ReduceOp::kAvg, 2, 2})->LS_SIZES;
BENCHMARK_CAPTURE(reduce, f32_premul_sum_2to1, Shape{DType::kFloat32, ReduceOp::kPreMulSum, 2, 1})->LS_SIZES;
BENCHMARK_CAPTURE(reduce, bf16_sum_2to2, Shape{DType::kBFloat16, ReduceOp::kSum, 2, 2})->LS_SIZES;
BENCHMARK_CAPTURE(reduce, bf16_sum_4to4, Shape{DType::kBFloat16, ReduceOp::kSum, 4, 4})->LS_SIZES;
BENCHMARK_CAPTURE(reduce, f16_sum_2to2, Shape{DType::kFloat16, ReduceOp::kSum, 2, 2})->LS_SIZES;
BENCHMARK_CAPTURE(from_peer, plain_loop, plain_sum)->LS_SIZES->UseManualTime();
BENCHMARK_CAPTURE(from_peer, f32_sum, kernel_sum)->LS_SIZES->UseManualTime();
BENCHMARK_CAPTURE(from_peers, f32_sum_3to1, Shape{DType::kFloat32, ReduceOp::kSum, 3, 1})->LS_SIZES->UseManualTime();
BENCHMARK_CAPTURE(from_peers, f32_sum_3to3, Shape{DType::kFloat32, ReduceOp::kSum, 3, 3})->LS_SIZES->UseManualTime();
BENCHMARK_CAPTURE(from_peers, f32_sum_4to1, Shape{DType::kFloat32, ReduceOp::kSum, 4, 1})->LS_SIZES->UseManualTime();
BENCHMARK_CAPTURE(from_peers, f32_sum_4to4, Shape{DType::kFloat32, ReduceOp::kSum, 4, 4})->LS_SIZES->UseManualTime();
BENCHMARK_CAPTURE(from_peers, bf16_sum_4to1, Shape{DType::kBFloat16, ReduceOp::kSum, 4, 1})->LS_SIZES->UseManualTime();
BENCHMARK_CAPTURE(from_peers, bf16_sum_4to4, Shape{DType::kBFloat16, ReduceOp::kSum, 4, 4})->LS_SIZES->UseManualTime();

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("instruction_set", kernels::instruction_set());
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
