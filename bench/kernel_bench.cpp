// The element-wise kernels against what bounds them: the C library's memcpy of the same bytes, and the loop that one
// would write without them, in one run, so that the ratios hold on a noisy machine.
//
//   kernel_bench --benchmark_enable_random_interleaving=true --benchmark_repetitions=5
//
// bytes_per_second counts the bytes of one buffer, as for memcpy: a kernel of n sources and m destinations moves n + m
// times as much. from_peer/ is what an all-reduce does: two threads fill a buffer each and then reduce half of both in
// place, so that half of every kernel's input comes from the other core's cache. Only the reductions count, and
// undisturbed_bytes_per_second, of the tenth percentile of the times, is the figure to read: the mean includes every
// interruption of either thread.
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
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

/// Two sources; one destination, which is the first source, or two, which are both.
void reduce(benchmark::State& state, DType dtype, ReduceOp op, std::size_t destination_count) {
  const Buffer a(bytes_of(state));
  const Buffer b(bytes_of(state));
  const void* const sources[] = {a.get(), b.get()};
  void* const destinations[] = {a.get(), b.get()};
  const std::size_t count = bytes_of(state) / lockstep::size_of(dtype);
  for (auto _ : state) {
    kernels::reduce(sources, {destinations, destination_count}, count, dtype, op, 2);
    benchmark::ClobberMemory();
  }
  count_bytes(state);
}

using HalfReduction = void (*)(float* a, float* b, std::size_t count);

void kernel_sum(float* a, float* b, std::size_t count) {
  const void* const sources[] = {a, b};
  void* const destinations[] = {a, b};
  kernels::reduce(sources, destinations, count, DType::kFloat32, ReduceOp::kSum, 2);
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

void from_peer(benchmark::State& state, HalfReduction half) {
  if (std::thread::hardware_concurrency() < 2) return state.SkipWithError("needs two cores");
  const Buffer a(bytes_of(state));
  const Buffer b(bytes_of(state));
  const std::size_t count = bytes_of(state) / sizeof(float);
  Meeting meeting;
  std::atomic<bool> over{false};
  const auto fill = [count](const Buffer& buffer) { std::fill_n(buffer.floats(), count, 1.0F); };
  std::thread peer([&] {
    pin_to(1);
    for (;;) {
      fill(b);
      meeting.wait();
      if (over.load(std::memory_order_acquire)) return;
      half(a.floats() + count / 2, b.floats() + count / 2, count - count / 2);
      meeting.wait();
    }
  });
  cpu_set_t before;
  pthread_getaffinity_np(pthread_self(), sizeof before, &before);
  pin_to(0);
  std::vector<double> seconds;
  for (auto _ : state) {
    fill(a);
    meeting.wait();
    const auto start = std::chrono::steady_clock::now();
    half(a.floats(), b.floats(), count / 2);
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

#define LS_SIZES RangeMultiplier(4)->Range(kSmallest, kLargest)
BENCHMARK(memcpy_baseline)->LS_SIZES;
BENCHMARK(copy)->LS_SIZES;
BENCHMARK(plain_loop_2to2)->LS_SIZES;
BENCHMARK_CAPTURE(reduce, f32_sum_2to1, DType::kFloat32, ReduceOp::kSum, 1)->LS_SIZES;
BENCHMARK_CAPTURE(reduce, f32_sum_2to2, DType::kFloat32, ReduceOp::kSum, 2)->LS_SIZES;
BENCHMARK_CAPTURE(reduce, f32_avg_2to1, DType::kFloat32, ReduceOp::kAvg, 1)->LS_SIZES;
BENCHMARK_CAPTURE(reduce, f32_avg_2to2, DType::kFloat32, ReduceOp::kAvg, 2)->LS_SIZES;
BENCHMARK_CAPTURE(reduce, bf16_sum_2to2, DType::kBFloat16, ReduceOp::kSum, 2)->LS_SIZES;
BENCHMARK_CAPTURE(reduce, f16_sum_2to2, DType::kFloat16, ReduceOp::kSum, 2)->LS_SIZES;
BENCHMARK_CAPTURE(from_peer, plain_loop, plain_sum)->LS_SIZES->UseManualTime();
BENCHMARK_CAPTURE(from_peer, f32_sum, kernel_sum)->LS_SIZES->UseManualTime();

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("instruction_set", kernels::instruction_set());
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
