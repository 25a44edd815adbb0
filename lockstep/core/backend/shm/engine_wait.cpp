// How the engine waits: spin, yield, sleep (waiting.h), and what it looks at meanwhile.
//
// A sleeper says for whom it sleeps; that peer rings when it next publishes anything. Publishing needs no full fence
// for this: a ring can be missed only when the peer read "awake" before our word reached it and its own store was
// still on the way, which is over long before the polls after that word are (see sleep()); and if it were not, a
// slice ends in 20 ms.

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "lockstep/core/backend/shm/engine.h"
#include "lockstep/core/backend/shm/failure.h"
#include "lockstep/core/base/check.h"

namespace lockstep::shm {
namespace {

constexpr auto kSlice = std::chrono::milliseconds(20);  ///< longest sleep, and how often peers' lives are checked
constexpr std::uint64_t kPollsPerCheck = 64;
constexpr int kPollsBeforeSleep = 128;

}  // namespace

void Engine::wait(std::uint64_t sequence, Deadline deadline) {
  for (std::uint64_t polls = 0; !finished(sequence); ++polls) {
    if (progress()) {
      polls = 0;
    } else {
      back_off(polls, deadline, sequence);
    }
  }
}

void Engine::back_off(std::uint64_t polls, const Deadline& deadline, std::uint64_t sequence) {
  const bool asleep = polls >= std::uint64_t{policy_.spins} + policy_.yields;
  if (asleep) {
    sleep(deadline);
  } else if (polls >= policy_.spins) {
    ::sched_yield();
  } else if (polls > 16) {
    cpu_relax();
  }
  if (has_failed(segment_)) throw_failure(segment_, doing());
  if (!asleep && polls % kPollsPerCheck != kPollsPerCheck - 1) return;
  const auto now = Clock::now();
  if (now - last_check_ >= kSlice) {
    last_check_ = now;
    check_peers();
  }
  if (deadline.passed()) time_out(deadline, sequence);
}

void Engine::sleep(const Deadline& deadline) {
  const int peer = blocking_rank();
  if (peer < 0) return;
  RankBlock& own = segment_.own();
  const std::uint32_t bell = own.doorbell.load(std::memory_order_acquire);
  own.asleep_for.store(static_cast<std::uint32_t>(peer + 1), std::memory_order_seq_cst);
  for (int poll = 0; poll < kPollsBeforeSleep; ++poll) {
    if (blocking_rank() != peer || has_failed(segment_)) {
      own.asleep_for.store(0, std::memory_order_relaxed);
      return;
    }
  }
  const Duration slice = std::min<Duration>(kSlice, deadline.left());
  timespec timeout{0, static_cast<long>(slice.count())};
  ::syscall(SYS_futex, &own.doorbell, FUTEX_WAIT, bell, &timeout, nullptr, 0);
  own.asleep_for.store(0, std::memory_order_relaxed);
}

bool Engine::has_done_its_part(int peer) const {
  if (peer == segment_.rank()) return true;
  if (finish_.tick < work_.tick) {
    const bool needed = operation(finish_.sequence).plan.wait_worked;
    return !needed || segment_.block(peer).worked.load(std::memory_order_acquire) > finish_.tick;
  }
  if (work_.tick < post_.tick) {
    return segment_.arrival(peer, work_.tick).stamp.load(std::memory_order_acquire) == work_.tick + 1;
  }
  // This rank could not post: a slot of an earlier tick is still being read.
  return segment_.block(peer).released.load(std::memory_order_acquire) + kSlots > post_.tick;
}

int Engine::blocking_rank() const {
  for (int rank = 0; rank < segment_.world_size(); ++rank) {
    if (!has_done_its_part(rank)) return rank;
  }
  return -1;
}

std::string Engine::missing_ranks() const {
  std::string text;
  int named = 0;
  for (int rank = 0; rank < segment_.world_size(); ++rank) {
    if (has_done_its_part(rank)) continue;
    if (++named > 8) return text + ", ...";
    const PeerState seen = last_seen(rank);
    text += base::cat(named > 1 ? "; " : "", "rank ", rank);
    if (seen.sequence == 0) {
      text += ", which has not started any operation";
    } else {
      text += base::cat(", last seen in ", name_of(seen.kind), " #", seen.sequence, " ", seconds(seen.age), " s ago");
    }
  }
  return text;
}

void Engine::check_peers() {
  for (int rank = 0; rank < segment_.world_size(); ++rank) {
    if (rank == segment_.rank() || !segment_.gone(rank)) continue;
    // What it published before it went counts: look once more, now that nothing more can come.
    progress();
    if (finished(started_) || has_done_its_part(rank)) continue;
    const PeerState seen = last_seen(rank);
    report_failure(
        segment_, FailureKind::kPeerDied, rank, finish_.sequence,
        base::cat(doing(), " failed: rank ", rank,
                  seen.left ? " left the group before it" : " died (its process has ended)", "; it was last seen in ",
                  seen.sequence == 0 ? "no operation" : name_of(seen.kind), " #", seen.sequence, ", ",
                  seconds(seen.age), " s ago; look at that rank's own output for the reason, then rebuild the group"));
    throw_failure(segment_, doing());
  }
}

void Engine::time_out(const Deadline& deadline, std::uint64_t sequence) {
  if (progress() && finished(sequence)) return;
  report_failure(segment_, FailureKind::kTimeout, blocking_rank(), finish_.sequence,
                 base::cat(doing(), " timed out after ", seconds(deadline.timeout()), " s; waiting for ",
                           missing_ranks(), "; a longer deadline: LOCKSTEP_TIMEOUT"));
  throw_failure(segment_, doing());
}

}  // namespace lockstep::shm
