// How the engine waits: spin, yield, sleep (waiting.h), and what it looks at meanwhile.
//
// A sleeper says for whom it sleeps; that peer rings when it next publishes anything. Publishing needs no full fence
// for this: a ring can be missed only when the peer read "awake" before our word reached it and its own store was
// still on the way, which is over long before the polls after that word are (see sleep()); and if it were not, a
// slice ends in 20 ms.

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "lockstep/core/backend/shm/engine.h"
#include "lockstep/core/backend/shm/failure.h"
#include "lockstep/core/backend/turn.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/cpus.h"

namespace lockstep::shm {
namespace {

constexpr auto kSlice = std::chrono::milliseconds(20);        ///< longest sleep, and how often peers' lives are checked
constexpr auto kShortSlice = std::chrono::microseconds(200);  ///< where other groups, whose bells are others, move too
constexpr std::uint64_t kPollsPerCheck = 64;
constexpr std::uint64_t kPollsPerLookAround = 16;
constexpr int kPollsBeforeSleep = 128;

}  // namespace

bool Engine::test(std::uint64_t sequence) {
  const Turn turn(entered_);
  return test(Goal{sequence, false});
}

void Engine::wait(std::uint64_t sequence, const Deadline& deadline) {
  const Turn turn(entered_);
  wait(Goal{sequence, false}, deadline);
}

bool Engine::test_message(std::uint64_t id) {
  const Turn turn(entered_);
  return test(Goal{id, true});
}

void Engine::wait_message(std::uint64_t id, Deadline deadline) {
  const Turn turn(entered_);
  wait(Goal{id, true}, deadline);
}

bool Engine::test(const Goal& goal) {
  progress();
  if (reached(goal)) return true;
  if (has_failed(segment_)) throw_failure(segment_, doing(goal));
  const auto now = Clock::now();
  if (now - last_check_ > kSlice) {
    last_check_ = now;
    check_peers(goal);
  }
  return reached(goal);
}

void Engine::wait(const Goal& goal, const Deadline& deadline) {
  for (std::uint64_t polls = 0; !reached(goal); ++polls) {
    if (progress()) {
      polls = 0;
    } else {
      back_off(polls, deadline, goal);
    }
  }
}

void Engine::back_off(std::uint64_t polls, const Deadline& deadline, const Goal& goal) {
  const bool asleep = polls >= std::uint64_t{policy_.spins} + policy_.yields;
  if (asleep || polls % kPollsPerLookAround == kPollsPerLookAround - 1) {
    InFlightList& list = InFlightList::of_this_thread();
    if (list.has_others()) list.progress_others(this);
  }
  bool look = asleep || polls % kPollsPerCheck == kPollsPerCheck - 1;
  if (asleep) {
    sleep(deadline, goal);
  } else if (polls >= policy_.spins) {
    look |= !base::yield_briefly();
  } else if (polls > 16) {
    base::cpu_relax();
  }
  if (has_failed(segment_)) {
    // What the others published before they failed counts.
    progress();
    if (reached(goal)) return;
    throw_failure(segment_, doing(goal));
  }
  if (!look) return;
  const auto now = Clock::now();
  if (now - last_check_ >= kSlice) {
    last_check_ = now;
    check_peers(goal);
  }
  if (deadline.passed()) time_out(deadline, goal);
}

void Engine::sleep(const Deadline& deadline, const Goal& goal) {
  // With messages under way it may be any rank that has something for this one.
  const bool anyone = !mailbox_.idle();
  const int peer = blocking_rank(goal);
  if (peer < 0 && !goal.is_message) return;
  const auto nothing_new = [&] {
    if (has_failed(segment_) || (anyone && mailbox_.has_news())) return false;
    return goal.is_message || blocking_rank(goal) == peer;
  };
  RankBlock& own = segment_.own();
  const std::uint32_t bell = own.doorbell.load(std::memory_order_acquire);
  own.asleep_for.store(anyone ? kAnyone : static_cast<std::uint32_t>(peer + 1), std::memory_order_seq_cst);
  for (int poll = 0; poll < kPollsBeforeSleep; ++poll) {
    if (nothing_new()) continue;
    own.asleep_for.store(0, std::memory_order_relaxed);
    return;
  }
  const bool others = InFlightList::of_this_thread().has_others();
  const Duration slice = std::min<Duration>(others ? Duration(kShortSlice) : Duration(kSlice), deadline.left());
  timespec timeout{0, static_cast<long>(slice.count())};
  ::syscall(SYS_futex, &own.doorbell, FUTEX_WAIT, bell, &timeout, nullptr, 0);
  own.asleep_for.store(0, std::memory_order_relaxed);
}

bool Engine::has_done_its_part(int peer) const {
  if (peer == segment_.rank()) return true;
  if (finish_.tick < work_.tick) {
    const bool needed = awaits_others(operation(finish_.sequence));
    return !needed || segment_.block(peer).worked.load(std::memory_order_acquire) > finish_.tick;
  }
  if (work_.tick < post_.tick) {
    return segment_.arrival(peer, work_.tick).stamp.load(std::memory_order_acquire) == work_.tick + 1;
  }
  // This rank could not post: a slot of an earlier tick is still being read.
  return segment_.block(peer).released.load(std::memory_order_acquire) + kSlots > post_.tick;
}

bool Engine::blocks(const Goal& goal, int peer) const {
  if (!goal.is_message) return !has_done_its_part(peer);
  const int awaited = mailbox_.awaited(goal.number);
  if (awaited != kAnySource) return awaited == peer;
  // Any rank may send it: a dead one might have, and those who left in order will not.
  if (!segment_.left(peer)) return true;
  for (int rank = 0; rank < segment_.world_size(); ++rank) {
    if (rank != segment_.rank() && !segment_.left(rank)) return false;
  }
  return true;
}

int Engine::blocking_rank(const Goal& goal) const {
  if (goal.is_message) return mailbox_.awaited(goal.number);
  for (int rank = 0; rank < segment_.world_size(); ++rank) {
    if (!has_done_its_part(rank)) return rank;
  }
  return -1;
}

std::string Engine::missing_ranks(const Goal& goal) const {
  if (goal.is_message && mailbox_.awaited(goal.number) == kAnySource) return "any rank to send it";
  std::string text;
  int named = 0;
  for (int rank = 0; rank < segment_.world_size(); ++rank) {
    if (!blocks(goal, rank)) continue;
    if (++named > 8) return text + ", ...";
    const PeerState seen = last_seen(rank);
    text += base::cat(named > 1 ? "; " : "", "rank ", rank);
    if (seen.sequence == 0) {
      text += ", which has not started any collective";
    } else {
      text += base::cat(", last seen in ", name_of(seen.kind), " #", seen.sequence, " ", seconds(seen.age), " s ago");
    }
  }
  return text;
}

void Engine::check_peers(const Goal& goal) {
  for (int rank = 0; rank < segment_.world_size(); ++rank) {
    if (rank == segment_.rank() || !segment_.gone(rank) || !blocks(goal, rank)) continue;
    // What it published before it went counts, and so does what others did whose leaving makes it the one to blame:
    // look once more, now that nothing more can come.
    progress();
    if (reached(goal)) return;
    if (blocks(goal, rank)) fail_for(rank, goal);
  }
}

int Engine::look_after(std::span<const int> ranks) {
  const Turn turn(entered_);
  progress();
  if (has_failed(segment_)) throw_failure(segment_, doing());
  const auto now = Clock::now();
  if (now - last_check_ < kSlice) return -1;
  last_check_ = now;
  for (const int rank : ranks) {
    if (rank == segment_.rank() || !segment_.gone(rank)) continue;
    // It may have left because of a failure, of which it has told since this rank last looked.
    if (has_failed(segment_)) throw_failure(segment_, doing());
    return rank;
  }
  return -1;
}

void Engine::fail_for(int peer, const Goal& goal) {
  const PeerState seen = last_seen(peer);
  std::string text = base::cat(doing(goal), " failed: rank ", peer,
                               seen.left ? " left the group before it" : " died (its process has ended)");
  text += seen.sequence == 0 ? "; it had not started any collective"
                             : base::cat("; it was last seen in ", name_of(seen.kind), " #", seen.sequence, ", ",
                                         seconds(seen.age), " s ago");
  text += "; look at that rank's own output for the reason, then rebuild the group";
  report_failure(segment_, FailureKind::kPeerDied, peer, goal.number, text);
  throw_failure(segment_, doing(goal));
}

void Engine::time_out(const Deadline& deadline, const Goal& goal) {
  if (progress() && reached(goal)) return;
  std::string text =
      base::cat(doing(goal), " timed out after ", seconds(deadline.timeout()), " s; waiting for ", missing_ranks(goal));
  const std::string unclaimed = goal.is_message ? mailbox_.unclaimed() : "";
  if (!unclaimed.empty()) text += "; not received by anybody here: " + unclaimed;
  text += "; a longer deadline: LOCKSTEP_TIMEOUT";
  report_failure(segment_, FailureKind::kTimeout, blocking_rank(goal), goal.number, text);
  throw_failure(segment_, doing(goal));
}

}  // namespace lockstep::shm
