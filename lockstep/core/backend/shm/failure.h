#pragma once
// The first thing that goes wrong in a group ends the group, on every rank, with one cause.

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "lockstep/core/backend/shm/segment.h"

namespace lockstep::shm {

/// Makes `text` the group's cause of failure, unless there is one, and wakes everyone. Never throws.
void report_failure(Segment& segment, FailureKind kind, int guilty, std::uint64_t sequence,
                    std::string_view text) noexcept;

/// True once the group has failed.
inline bool has_failed(const Segment& segment) noexcept {
  return segment.header().failure_state.load(std::memory_order_acquire) != 0;
}

/// Asked after memory of peers was read, before what was read counts: a rank that has given up owns its memory again,
/// and may free it or write to it while others still read there.
inline bool has_failed_meanwhile(const Segment& segment) noexcept {
#ifndef __SANITIZE_THREAD__  // It does not know fences.
  std::atomic_thread_fence(std::memory_order_acquire);
#endif
  return has_failed(segment);
}

/// Throws the group's failure as the error that it is on this rank: the rank that others gave up on gets
/// AbortedError, everyone else the type of the first cause. `doing` says what this rank was about.
[[noreturn]] void throw_failure(const Segment& segment, const std::string& doing);

}  // namespace lockstep::shm
