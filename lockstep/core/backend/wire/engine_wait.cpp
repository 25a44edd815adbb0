// How the engine waits, and what it looks at meanwhile. What comes over a wire takes tens of microseconds at least, and
// is received by others (Gloo's thread) or in MPI's calls: so it gives the core away first, then sleeps in slices on
// the oldest transfer that is missing.

#include <optional>
#include <thread>

#include "lockstep/core/backend/turn.h"
#include "lockstep/core/backend/wire/engine.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/cpus.h"
#include "lockstep/core/base/time_slice.h"

namespace lockstep::wire {
namespace {

constexpr auto kPeerCheck = std::chrono::milliseconds(20);
constexpr auto kSlice = std::chrono::microseconds(200);  ///< while other transfers may complete first
constexpr std::uint64_t kYields = 20;

}  // namespace

bool Engine::test(std::uint64_t sequence) {
  const Turn turn(entered_);
  return test(goal_of(sequence));
}

void Engine::wait(std::uint64_t sequence, Deadline deadline) {
  const Turn turn(entered_);
  wait(goal_of(sequence), deadline);
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
  if (!reached(goal)) {
    if (failure_.poll()) throw_failure(failure_.failure(), rank_, doing(goal));
    const auto now = Clock::now();
    if (now - last_check_ > kPeerCheck) {
      last_check_ = now;
      check_peers(goal);
    }
  }
  if (!reached(goal)) return false;
  require_sound(goal);
  return true;
}

void Engine::wait(const Goal& goal, const Deadline& deadline) {
  // With pieces in flight the wire waits for this thread whenever one has come. Small operations gain nothing: their
  // ranks give way to each other, and a short slice comes back too soon.
  std::optional<base::ShortTimeSlices> short_slices;
  for (std::uint64_t polls = 0; !reached(goal); ++polls) {
    if (progress()) {
      polls = 0;
    } else {
      if (!short_slices && !flights_.empty()) short_slices.emplace();
      back_off(polls, deadline, goal);
    }
  }
  require_sound(goal);
}

// A sender tells of its failure before its buffer is its own again (close()), on a connection that keeps its order: so
// it is known here by the time that what was written there later has come.
void Engine::require_sound(const Goal& goal) {
  if (!transport_->takes_back_sends() && failure_.poll()) throw_failure(failure_.failure(), rank_, doing(goal));
}

void Engine::back_off(std::uint64_t polls, const Deadline& deadline, const Goal& goal) {
  InFlightList& list = InFlightList::of_this_thread();
  if (list.has_others()) list.progress_others(this);
  if (polls < kYields && base::yield_briefly()) return;
  if (failure_.poll()) {
    // What the others sent before they failed counts.
    progress();
    if (reached(goal)) return;
    throw_failure(failure_.failure(), rank_, doing(goal));
  }
  const auto now = Clock::now();
  if (now - last_check_ >= kPeerCheck) {
    last_check_ = now;
    check_peers(goal);
  }
  if (deadline.passed()) return time_out(deadline, goal);
  if (polls >= kYields) sleep(goal);
}

void Engine::sleep(const Goal& goal) {
  if (Transfer* const transfer = blocking_transfer(goal)) {
    transfer->wait(kSlice);
  } else {
    std::this_thread::sleep_for(kSlice / 2);
  }
}

Transfer* Engine::blocking_transfer(const Goal& goal) {
  if (goal.is_message) return messages_.transfer_of(goal.number);
  for (Flight& flight : flights_) {
    for (auto* const transfers :
         {&flight.first_recvs, &flight.first_sends, &flight.second_recvs, &flight.second_sends}) {
      for (const auto& transfer : *transfers) {
        if (transfer != nullptr && transfer->state() == TransferState::kMoving) return transfer.get();
      }
    }
  }
  for (const Peer& peer : peers_) {
    if (peer.headers != nullptr && peer.heard < begun_) return &peer.headers->awaited();
  }
  return nullptr;
}

bool Engine::blocks(const Goal& goal, int peer) const {
  if (peer == rank_) return false;
  const auto at = static_cast<std::size_t>(peer);
  if (goal.is_message) {
    const int awaited = messages_.awaited(goal.number);
    if (awaited != kAnySource) return awaited == peer;
    // Any rank may send it: a dead one might have.
    return true;
  }
  if (operations_.empty()) return false;
  if (!operations_.front()->heard[at]) return true;
  const auto is_missing = [at](const std::vector<std::unique_ptr<Transfer>>& transfers) {
    return at < transfers.size() && transfers[at] != nullptr && transfers[at]->state() != TransferState::kComplete;
  };
  if (flights_.empty()) return false;
  const Flight& oldest = flights_.front();
  // Who has not all of the first exchange yet sends nothing in the second: that is no fault of its own.
  if (!oldest.combined) return is_missing(oldest.first_recvs) || is_missing(oldest.first_sends);
  return is_missing(oldest.second_recvs) || is_missing(oldest.second_sends);
}

int Engine::blocking_rank(const Goal& goal) const {
  if (goal.is_message) return messages_.awaited(goal.number);
  for (int rank = 0; rank < world_size_; ++rank) {
    if (blocks(goal, rank)) return rank;
  }
  return -1;
}

std::string Engine::missing_ranks(const Goal& goal) const {
  if (goal.is_message && messages_.awaited(goal.number) == kAnySource) return "any rank to send it";
  std::string text;
  int named = 0;
  for (int rank = 0; rank < world_size_; ++rank) {
    if (!blocks(goal, rank)) continue;
    if (++named > 8) return text + ", ...";
    const PeerState seen = last_seen(rank);
    text += base::cat(named > 1 ? "; " : "", "rank ", rank);
    text += seen.sequence == 0 ? std::string(", which has not started any collective")
                               : base::cat(", last heard of in ", name_of(seen.kind), " #", seen.sequence, " ",
                                           seconds(seen.age), " s ago");
  }
  return text;
}

std::string Engine::doing(const Goal& goal) const {
  std::string text = base::cat("rank ", rank_, "/", world_size_, " group ", group_);
  if (goal.is_message) return text + ": " + messages_.doing(goal.number);
  if (!operations_.empty()) text += ": " + describe(operations_.front()->collective);
  return text;
}

void Engine::check_peers(const Goal& goal) {
  for (int peer = 0; peer < world_size_; ++peer) {
    if (peer == rank_ || !transport_->gone(peer)) continue;
    // What it sent before it went counts, and so does what it said of a failure: look once more.
    progress();
    if (reached(goal)) return;
    if (failure_.poll()) throw_failure(failure_.failure(), rank_, doing(goal));
    if (blocks(goal, peer)) fail_for(peer, goal);
  }
}

int Engine::look_after(std::span<const int> ranks) {
  const Turn turn(entered_);
  progress();
  if (failure_.poll()) throw_failure(failure_.failure(), rank_, doing({appended_, false}));
  for (const int rank : ranks) {
    if (rank == rank_ || !transport_->gone(rank)) continue;
    // It may have left because of a failure, of which it has told since this rank last looked.
    if (failure_.poll()) throw_failure(failure_.failure(), rank_, doing({appended_, false}));
    return rank;
  }
  return -1;
}

void Engine::fail_for(int peer, const Goal& goal) {
  const PeerState seen = last_seen(peer);
  std::string text = base::cat(doing(goal), " failed: rank ", peer, " is gone (its process or its connection ended");
  const std::string why = transport_->why_gone(peer);
  text += why.empty() ? ")" : "; " + why + ")";
  text += seen.sequence == 0 ? "; it had not started any collective"
                             : base::cat("; it was last heard of in ", name_of(seen.kind), " #", seen.sequence, ", ",
                                         seconds(seen.age), " s ago");
  text += "; look at that rank's own output for the reason, then rebuild the group";
  const std::uint64_t sequence = goal.is_message ? goal.number : goal.number - measured_;
  failure_.report(FailureKind::kPeerDied, peer, sequence, text);
  throw_failure(failure_.failure(), rank_, doing(goal));
}

void Engine::time_out(const Deadline& deadline, const Goal& goal) {
  if (progress() && reached(goal)) return;
  std::string text =
      base::cat(doing(goal), " timed out after ", seconds(deadline.timeout()), " s; waiting for ", missing_ranks(goal));
  const std::string unclaimed = goal.is_message ? messages_.unclaimed() : "";
  if (!unclaimed.empty()) text += "; not received by anybody here: " + unclaimed;
  text += "; a longer deadline: LOCKSTEP_TIMEOUT";
  const std::uint64_t sequence = goal.is_message ? goal.number : goal.number - measured_;
  failure_.report(FailureKind::kTimeout, blocking_rank(goal), sequence, text);
  throw_failure(failure_.failure(), rank_, doing(goal));
}

}  // namespace lockstep::wire
