// The machine's own limits, so that a result reads as a share of what is possible. Virtual machines move their CPUs:
// the hand-off between the same two CPUs differs several times from one minute to the next, and everything that
// crosses cores with it. Hence the limits are measured before and after each run.

#include "apps/lockstep/bench/limits.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/dtype.h"
#include "lockstep/core/kernels/kernels.h"

namespace lockstep::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr std::size_t kLine = 128;  // Two lines: the neighbour's prefetch would count as traffic.
constexpr std::size_t kSmallestRemote = std::size_t{16} << 10;  // Below it the clock's own cost would show.
constexpr std::size_t kLargestRemote = std::size_t{64} << 20;
constexpr std::size_t kStreamBytes = std::size_t{64} << 20;
constexpr auto kPatience = std::chrono::seconds(20);

void pause_cpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

double seconds_since(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Two threads that take turns: each waits for the other's counter.
class Turns {
 public:
  void publish(int side, unsigned value) { words_[side].value.store(value, std::memory_order_release); }
  /// Spins until the other side has published `value`. The clock is read only once a wait is long.
  void await(int side, unsigned value) const {
    std::optional<Deadline> deadline;
    for (unsigned spins = 1; words_[1 - side].value.load(std::memory_order_acquire) < value; ++spins) {
      pause_cpu();
      if (spins % (1U << 16) != 0) continue;
      if (!deadline) deadline = Deadline::after(kPatience);
      if (deadline->passed()) {
        throw TimeoutError(base::cat("machine limits: the second CPU did not answer within ", seconds(kPatience),
                                     " s; is the machine busy?"));
      }
    }
  }

 private:
  struct alignas(kLine) Word {
    std::atomic<unsigned> value{0};
  };
  Word words_[2];
};

/// Runs side(0) and side(1) on two pinned threads and rethrows what either throws.
void run_pair(const std::vector<int>& cpus, const std::function<void(int)>& side) {
  std::exception_ptr failures[2];
  const auto body = [&](int which) {
    try {
      pin_to_cpu(cpus[static_cast<std::size_t>(which)]);
      side(which);
    } catch (...) {
      failures[which] = std::current_exception();
    }
  };
  std::thread second(body, 1);
  std::thread first(body, 0);
  first.join();
  second.join();
  for (const auto& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

using Buffer = std::unique_ptr<std::byte[], void (*)(std::byte*)>;

Buffer touched_buffer(std::size_t nbytes) {
  constexpr std::align_val_t kAlignment{4096};
  Buffer buffer(static_cast<std::byte*>(::operator new[](nbytes, kAlignment)),
                [](std::byte* data) { ::operator delete[](data, kAlignment); });
  std::memset(buffer.get(), 0, nbytes);
  return buffer;
}

void add(std::byte* own, const std::byte* other, std::size_t nbytes) {
  const void* const sources[] = {own, other};
  void* const destinations[] = {own};
  kernels::reduce(sources, destinations, nbytes / sizeof(float), {DType::kFloat32, ReduceOp::kSum});
}

/// Writes all of `data` as the measuring loop does: ordinary stores from a block in cache, so that the lines end up in
/// the writer's own caches.
void rewrite(std::byte* data, std::size_t nbytes) {
  static const std::vector<std::byte> kBlock(std::size_t{16} << 10, std::byte{1});
  for (std::size_t at = 0; at < nbytes; at += kBlock.size()) {
    std::memcpy(data + at, kBlock.data(), std::min(kBlock.size(), nbytes - at));
  }
}

double measure_handoff_ns(const std::vector<int>& cpus) {
  constexpr unsigned kBatches = 9;
  constexpr unsigned kRounds = 4000;
  Turns turns;
  std::vector<double> times;
  run_pair(cpus, [&](int side) {
    for (unsigned batch = 0; batch <= kBatches; ++batch) {  // Batch 0 brings both threads up.
      const auto start = SteadyClock::now();
      for (unsigned round = batch * kRounds + 1; round <= (batch + 1) * kRounds; ++round) {
        if (side == 0) turns.publish(0, round);
        turns.await(side, round);
        if (side == 1) turns.publish(1, round);
      }
      if (side == 0 && batch > 0) times.push_back(seconds_since(start) / (2.0 * kRounds) * 1e9);
    }
  });
  return median(times);
}

/// Side 1 owns `shared` and touches it; then side 0 works on it and is timed. A limit is what the best round shows:
/// the others were disturbed.
RemoteRate measure_remote(const std::vector<int>& cpus, std::size_t nbytes) {
  const unsigned rounds = nbytes >= (std::size_t{4} << 20) ? 4 : 40;
  const Buffer own = touched_buffer(nbytes);
  const Buffer shared = touched_buffer(nbytes);
  const Buffer scratch = touched_buffer(nbytes);
  Turns turns;
  std::vector<double> adds;
  std::vector<double> writes;
  run_pair(cpus, [&](int side) {
    for (unsigned round = 1; round <= 2 * rounds; ++round) {
      const bool adding = round % 2 == 1;
      if (side == 1) {
        if (adding)
          rewrite(shared.get(), nbytes);
        else
          kernels::copy(scratch.get(), shared.get(), nbytes);
        turns.publish(1, round);
        turns.await(1, round);
        continue;
      }
      rewrite(own.get(), nbytes);
      turns.await(0, round);
      const auto start = SteadyClock::now();
      if (adding)
        add(own.get(), shared.get(), nbytes);
      else
        kernels::copy(shared.get(), own.get(), nbytes);
      (adding ? adds : writes).push_back(seconds_since(start));
      turns.publish(0, round);
    }
  });
  const double gigabytes = static_cast<double>(nbytes) * 1e-9;
  return {nbytes, gigabytes / *std::min_element(adds.begin(), adds.end()),
          gigabytes / *std::min_element(writes.begin(), writes.end())};
}

/// GB/s of `work` on memory-sized streams in its best round, summed over the sides that take part.
double measure_stream(const std::vector<int>& cpus, int sides,
                      const std::function<void(std::byte*, const std::byte*, std::size_t)>& work) {
  constexpr unsigned kRounds = 4;
  Turns turns;
  std::vector<double> rates[2];
  run_pair(cpus, [&](int side) {
    if (side >= sides) return;
    const Buffer a = touched_buffer(kStreamBytes);
    const Buffer b = touched_buffer(kStreamBytes);
    for (unsigned round = 1; round <= kRounds; ++round) {
      turns.publish(side, round);
      if (sides == 2) turns.await(side, round);
      const auto start = SteadyClock::now();
      work(a.get(), b.get(), kStreamBytes);
      rates[side].push_back(static_cast<double>(kStreamBytes) * 1e-9 / seconds_since(start));
    }
  });
  double sum = 0;
  for (int side = 0; side < sides; ++side) sum += *std::max_element(rates[side].begin(), rates[side].end());
  return sum;
}

/// Bytes of the last cache that CPU 0 has a part in; 0 where nobody knows.
std::size_t last_cache_bytes() {
  // The C library is asked last: glibc 2.36 counts the whole package on AMD, where each group of cores has its own.
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index3/size");
  std::size_t size = 0;
  char unit = '\0';
  if (file >> size >> unit && size > 0) {
    if (unit == 'K') return size << 10;
    if (unit == 'M') return size << 20;
  }
  const long cache = ::sysconf(_SC_LEVEL3_CACHE_SIZE);
  return cache > 0 ? static_cast<std::size_t>(cache) : 0;
}

}  // namespace

MachineLimits measure_limits(const std::vector<int>& cpus, std::size_t max_bytes) {
  MachineLimits limits;
  limits.cpus = static_cast<int>(cpus.size());
  if (limits.cpus < 2) return limits;
  limits.measured = true;
  limits.handoff_ns = measure_handoff_ns(cpus);
  const std::size_t largest = std::clamp(max_bytes, kSmallestRemote, kLargestRemote);
  for (std::size_t nbytes = kSmallestRemote; nbytes <= largest; nbytes *= 4) {
    limits.remote.push_back(measure_remote(cpus, nbytes));
  }
  const auto copy = [](std::byte* to, const std::byte* from, std::size_t nbytes) { kernels::copy(to, from, nbytes); };
  limits.copy_one = measure_stream(cpus, 1, copy);
  limits.copy_both = measure_stream(cpus, 2, copy);
  limits.add_one = measure_stream(cpus, 1, add);
  limits.add_both = measure_stream(cpus, 2, add);
  limits.cache_bytes = last_cache_bytes();
  return limits;
}

double handoff_change(const MachineLimits& before, const MachineLimits& after) {
  if (!before.measured || !after.measured) return 1;
  return std::max(before.handoff_ns, after.handoff_ns) / std::min(before.handoff_ns, after.handoff_ns);
}

void pin_to_cpu(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  LS_SYSCALL(::sched_setaffinity(0, sizeof set, &set), "pinning to CPU ", cpu);
}

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (colon != std::string::npos && line.starts_with("model name")) return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace lockstep::bench
