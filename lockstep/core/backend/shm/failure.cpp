#include "lockstep/core/backend/shm/failure.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "lockstep/core/backend/shm/doorbell.h"
#include "lockstep/core/base/check.h"

namespace lockstep::shm {

void report_failure(Segment& segment, FailureKind kind, int guilty, std::uint64_t sequence,
                    std::string_view text) noexcept {
  Header& header = segment.header();
  std::uint32_t expected = 0;
  if (!header.failure_state.compare_exchange_strong(expected, 1)) return;
  header.failure.kind = kind;
  header.failure.guilty = guilty;
  header.failure.reporter = segment.rank();
  header.failure.sequence = sequence;
  const std::size_t length = std::min(text.size(), sizeof header.failure.text - 1);
  std::memcpy(header.failure.text, text.data(), length);
  header.failure.text[length] = '\0';
  header.failure_state.store(2, std::memory_order_release);
  for (int rank = 0; rank < segment.world_size(); ++rank) ring(segment.block(rank));
}

void throw_failure(const Segment& segment, const std::string& doing) {
  const Header& header = segment.header();
  // The writer needs a microsecond; one that died while writing must not hold us up.
  for (int naps = 0; header.failure_state.load(std::memory_order_acquire) == 1 && naps < 1000; ++naps) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  if (header.failure_state.load(std::memory_order_acquire) != 2) {
    throw AbortedError(doing + ": a peer failed and died while it said why");
  }
  const Failure& failure = header.failure;
  const std::string text = failure.text;
  const std::string told = failure.reporter == segment.rank()
                               ? text
                               : base::cat(doing, ": rank ", failure.reporter, " ended the group: ", text);
  if (failure.guilty == segment.rank() && failure.kind != FailureKind::kMismatch) {
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

}  // namespace lockstep::shm
