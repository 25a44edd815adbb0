#pragma once
// The first thing that goes wrong in a group ends it, on every rank, with one cause: as a value that ranks pass on.

#include <cstdint>
#include <string>
#include <string_view>

namespace lockstep {

enum class FailureKind : std::uint32_t { kNone, kAborted, kPeerDied, kTimeout, kMismatch };

/// Written by the rank that finds it.
struct Failure {
  FailureKind kind = FailureKind::kNone;
  std::int32_t guilty = -1;    ///< rank, or -1
  std::int32_t reporter = -1;  ///< rank
  std::uint32_t unused = 0;
  std::uint64_t sequence = 0;
  char text[1000] = {};

  /// Cuts what does not fit.
  void set_text(std::string_view what) noexcept;
};

/// Throws it as the error that it is on `rank`: one that the others gave up on gets AbortedError, everyone else the
/// type of the cause. `doing` says what this rank was about.
[[noreturn]] void throw_failure(const Failure& failure, int rank, const std::string& doing);

}  // namespace lockstep
