// Rank 0 asks by writing a number to `ping`, rank 1 answers by writing the same number to `pong`:
//   1, 2, 3 ...             nothing else: the time of an exchange is two hand-offs
//   kFill + 1, + 2 ...      rank 1 first writes its staging slot: then rank 0 times adding that to its own buffer
//   kDrain + 1, + 2 ...     rank 1 first reads rank 0's slot: then rank 0 times writing there
// The least of a few times counts: whatever disturbs a measurement makes it longer.

#include "lockstep/core/backend/shm/measure.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <mutex>
#include <optional>
#include <vector>

#include "lockstep/core/backend/shm/segment.h"
#include "lockstep/core/base/cpus.h"
#include "lockstep/core/kernels/kernels.h"

namespace lockstep::shm {
namespace {

constexpr std::uint32_t kFill = 1u << 16;
constexpr std::uint32_t kDrain = 2u << 16;
constexpr std::size_t kBytes = 32u << 10;
constexpr double kKilobytes = kBytes / 1024.0;
constexpr int kRounds = 8;
constexpr std::uint32_t kExchanges = 16;  // Timed together.
constexpr auto kPatience = std::chrono::milliseconds(5);

double ns_since(Clock::time_point start) {
  return static_cast<double>(std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
}

/// True once `word` is `value`; false when the deadline passes first.
bool becomes(const std::atomic<std::uint32_t>& word, std::uint32_t value, const Deadline& deadline) {
  for (std::uint32_t polls = 1; word.load(std::memory_order_acquire) != value; ++polls) {
    if (polls % 64 == 0 && deadline.passed()) return false;
    base::cpu_relax();
  }
  return true;
}

class Measurement {
 public:
  explicit Measurement(Segment& segment) : segment_(segment), deadline_(Deadline::after(kPatience)), own_(kBytes) {
    segment_.require_slot(0);
  }

  std::optional<Constants> run() {
    constexpr double kNever = std::numeric_limits<double>::infinity();
    Constants least{kNever, kNever, kNever};
    for (std::uint32_t round = 1; round <= kRounds; ++round) {
      if (!exchange((round - 1) * kExchanges + 1)) return std::nullopt;  // Both are here now.
      auto start = Clock::now();
      for (std::uint32_t i = 2; i <= kExchanges; ++i) {
        if (!exchange((round - 1) * kExchanges + i)) return std::nullopt;
      }
      least.handoff_ns = std::min(least.handoff_ns, ns_since(start) / (2.0 * (kExchanges - 1)));

      if (!exchange(kFill + round)) return std::nullopt;
      start = Clock::now();
      const std::array<const void*, 2> sources = {own_.data(), segment_.slot(1, 0)};
      const std::array<void*, 1> destinations = {own_.data()};
      kernels::reduce(sources, destinations, kBytes / sizeof(float), {DType::kFloat32, ReduceOp::kSum});
      least.read_ns_per_kb = std::min(least.read_ns_per_kb, ns_since(start) / kKilobytes);

      if (!exchange(kDrain + round)) return std::nullopt;
      start = Clock::now();
      kernels::copy(segment_.slot(0, 0), own_.data(), kBytes);
      least.write_ns_per_kb = std::min(least.write_ns_per_kb, ns_since(start) / kKilobytes);
    }
    return Constants{std::clamp(least.handoff_ns, 20.0, 10000.0), std::clamp(least.read_ns_per_kb, 2.0, 1000.0),
                     std::clamp(least.write_ns_per_kb, 2.0, 1000.0)};
  }

 private:
  bool exchange(std::uint32_t number) {
    segment_.header().ping.store(number, std::memory_order_release);
    return becomes(segment_.header().pong, number, deadline_);
  }

  Segment& segment_;
  Deadline deadline_;
  std::vector<std::byte> own_;
};

}  // namespace

Constants known_constants(Segment& segment) {
  static std::mutex mutex;
  static std::optional<Constants> known;  // Guarded by mutex.
  const std::lock_guard lock(mutex);
  if (known) return *known;
  const auto measured = Measurement(segment).run();
  // A machine too busy to be measured now may be quiet when the next group forms.
  if (measured) known = measured;
  return measured.value_or(Constants{});
}

void help_to_measure(Segment& segment, Deadline deadline) {
  segment.require_slot(0);
  Header& shared = segment.header();
  std::vector<std::byte> sink(kBytes);
  const Deadline patience = Deadline::after(std::min<Duration>(4 * kPatience, deadline.left()));
  std::uint32_t answered = 0;
  for (std::uint32_t polls = 1; shared.constants_ready.load(std::memory_order_acquire) == 0; ++polls) {
    const std::uint32_t asked = shared.ping.load(std::memory_order_acquire);
    if (asked == answered) {
      if (polls % 64 == 0 && patience.passed()) return;
      base::cpu_relax();
      continue;
    }
    if (asked > kDrain) {
      kernels::copy(sink.data(), segment.slot(0, 0), kBytes);
    } else if (asked > kFill) {
      std::memset(segment.slot(1, 0), 0, kBytes);
    }
    answered = asked;
    shared.pong.store(asked, std::memory_order_release);
  }
}

}  // namespace lockstep::shm
