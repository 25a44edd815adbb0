#pragma once

#include <time.h>

#include <chrono>

namespace lockstep {

using Clock = std::chrono::steady_clock;
using Duration = std::chrono::nanoseconds;

/// The clock's last tick, up to 10 ms old: for a fifth of the cost of now().
inline Clock::time_point coarse_now() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return Clock::time_point(std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec));
}

/// A point in time by which a wait must end. Every wait of the library takes one; none() must be asked for by name.
///
/// Thread safety: a value.
class Deadline {
 public:
  /// `timeout` from now. A timeout of zero or less has passed already: the wait polls once.
  static Deadline after(Duration timeout) { return Deadline(Clock::now(), timeout); }
  /// The same by coarse_now(), and up to 10 ms late.
  static Deadline roughly_after(Duration timeout) {
    return Deadline(coarse_now() + std::chrono::milliseconds(10), timeout);
  }
  /// Never passes. Only for callers that bound the wait by other means.
  static Deadline none() { return Deadline(); }

  /// Passed now, with the part of the timeout that has gone by; the same where it has passed, or is unbounded.
  Deadline cut_short() const {
    Deadline now = *this;
    if (!bounded_ || passed()) return now;
    const Duration left_over = left();
    now.timeout_ = left_over < timeout_ ? timeout_ - left_over : Duration::zero();
    now.end_ = end_ - left_over;
    return now;
  }

  bool passed() const { return bounded_ && Clock::now() >= end_; }
  bool bounded() const noexcept { return bounded_; }
  /// Time left, zero when passed; Duration::max() when unbounded.
  Duration left() const {
    if (!bounded_) return Duration::max();
    const auto now = Clock::now();
    return now >= end_ ? Duration::zero() : std::chrono::duration_cast<Duration>(end_ - now);
  }
  /// The timeout that it was made with, for messages; Duration::max() when unbounded.
  Duration timeout() const noexcept { return timeout_; }

 private:
  Deadline() = default;
  Deadline(Clock::time_point start, Duration timeout)
      : bounded_(true),
        end_(timeout < Clock::time_point::max() - start ? start + timeout : Clock::time_point::max()),
        timeout_(timeout) {}

  bool bounded_ = false;
  Clock::time_point end_{};
  Duration timeout_ = Duration::max();
};

/// The duration in seconds, for messages.
inline double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace lockstep
