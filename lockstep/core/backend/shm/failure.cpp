#include "lockstep/core/backend/shm/failure.h"

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
  header.failure.set_text(text);
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
  lockstep::throw_failure(header.failure, segment.rank(), doing);
}

}  // namespace lockstep::shm
