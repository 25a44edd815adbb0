#pragma once
// Internal: never included from a public header.

#include <cstdint>

namespace lockstep::base {

/// How long the calling thread may run before others of the same kind do, in nanoseconds. 0 where that cannot be told:
/// before Linux 6.12, or of a thread with a real-time policy.
std::uint64_t time_slice_ns() noexcept;

/// For as long as it lives, the calling thread asks the scheduler for its CPU time in short slices.
///
/// It gets no more time than before, but sooner: where more threads run than there are CPUs, one that wakes up with a
/// short slice goes before those that would use a long one, instead of waiting for up to a few milliseconds. That suits
/// threads that do a little for others who wait for it, between sleeps. Linux 6.12 and later, whose scheduler (EEVDF)
/// takes sched_runtime of SCHED_OTHER for the slice; elsewhere, and where the kernel refuses, this does nothing.
/// To be destroyed in the thread that made it.
class ShortTimeSlices {
 public:
  static constexpr std::uint64_t kSliceNs = 100'000;  ///< the shortest that the kernel grants

  ShortTimeSlices() noexcept;
  ~ShortTimeSlices();
  ShortTimeSlices(const ShortTimeSlices&) = delete;
  ShortTimeSlices& operator=(const ShortTimeSlices&) = delete;

 private:
  std::uint64_t before_ns_ = 0;  ///< 0: nothing to give back
};

}  // namespace lockstep::base
