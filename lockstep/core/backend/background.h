#pragma once
// Moves what is in flight between hosts while its caller computes: a message that arrives during backward must be
// answered then, or the wire is idle until the next call. Shared memory needs none of this (docs/design/0005).

#include <memory>

#include "lockstep/core/backend/in_flight.h"

namespace lockstep {

/// One thread a process, which looks at every group that was added, twice a millisecond while any has something in
/// flight; asleep otherwise, and gone with the last group.
///
/// Thread safety: any thread.
class Background {
 public:
  /// From now on `group` is looked at.
  static void add(const std::weak_ptr<InFlight>& group);
  /// No longer, and not at this moment: so its owner's pointer is the last one.
  static void remove(const InFlight& group) noexcept;
  /// A group has begun something. Costs a load while the thread is awake.
  static void wake() noexcept;
};

}  // namespace lockstep
