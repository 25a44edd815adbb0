#include "lockstep/core/base/time_slice.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace lockstep::base {
namespace {

/// sched_setattr(2), in its first form: C libraries before glibc 2.41 have none, and the kernel's header cannot be
/// included together with <sched.h>.
struct Attributes {
  std::uint32_t size = sizeof(Attributes);
  std::uint32_t policy = 0;
  std::uint64_t flags = 0;
  std::int32_t nice = 0;
  std::uint32_t priority = 0;
  std::uint64_t runtime = 0;  ///< nanoseconds; of SCHED_OTHER: the slice
  std::uint64_t deadline = 0;
  std::uint64_t period = 0;
};

/// Of the calling thread; runtime 0 where it is not one of the usual kind, or its scheduler has no slices to set.
Attributes own_attributes() noexcept {
  Attributes attributes;
  if (::syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0) return {};
  if (attributes.policy != SCHED_OTHER && attributes.policy != SCHED_BATCH) return {};
  return attributes;
}

/// Nothing else of the thread changes: the rest is what the kernel has just said.
bool set_slice(Attributes attributes, std::uint64_t slice_ns) noexcept {
  attributes.runtime = slice_ns;
  return ::syscall(SYS_sched_setattr, 0, &attributes, 0) == 0;
}

}  // namespace

std::uint64_t time_slice_ns() noexcept { return own_attributes().runtime; }

ShortTimeSlices::ShortTimeSlices() noexcept {
  const Attributes attributes = own_attributes();
  if (attributes.runtime > kSliceNs && set_slice(attributes, kSliceNs)) before_ns_ = attributes.runtime;
}

ShortTimeSlices::~ShortTimeSlices() {
  if (before_ns_ == 0) return;
  const Attributes attributes = own_attributes();
  if (attributes.runtime != 0) set_slice(attributes, before_ns_);
}

}  // namespace lockstep::base
