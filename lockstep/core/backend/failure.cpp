#include "lockstep/core/backend/failure.h"

#include <algorithm>
#include <cstring>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/error.h"

namespace lockstep {

void Failure::set_text(std::string_view what) noexcept {
  const std::size_t length = std::min(what.size(), sizeof text - 1);
  std::memcpy(text, what.data(), length);
  text[length] = '\0';
}

void throw_failure(const Failure& failure, int rank, const std::string& doing) {
  const std::string text = failure.text;
  const std::string told =
      failure.reporter == rank ? text : base::cat(doing, ": rank ", failure.reporter, " ended the group: ", text);
  if (failure.guilty == rank && failure.kind != FailureKind::kMismatch) {
    throw AbortedError(base::cat(doing, ": the group gave up on this rank: ", text));
  }
  switch (failure.kind) {
    case FailureKind::kPeerDied: throw PeerError(told, failure.guilty);
    case FailureKind::kTimeout: throw TimeoutError(told, failure.guilty, failure.sequence);
    case FailureKind::kMismatch: throw MismatchError(told);
    case FailureKind::kAborted:
    case FailureKind::kNone: break;
  }
  throw AbortedError(base::cat(doing, ": aborted: ", told));
}

}  // namespace lockstep
