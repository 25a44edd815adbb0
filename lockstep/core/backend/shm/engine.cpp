#include "lockstep/core/backend/shm/engine.h"

#include <algorithm>
#include <new>
#include <type_traits>

#include "lockstep/core/backend/packed.h"
#include "lockstep/core/backend/shm/doorbell.h"
#include "lockstep/core/backend/shm/failure.h"
#include "lockstep/core/backend/shm/steps.h"
#include "lockstep/core/backend/turn.h"
#include "lockstep/core/base/check.h"

namespace lockstep::shm {
namespace {

/// For "last seen", where steps of some milliseconds don't matter.
std::uint32_t coarse_ms() noexcept {
  return static_cast<std::uint32_t>(
      std::chrono::floor<std::chrono::milliseconds>(coarse_now()).time_since_epoch().count());
}

/// Elements that every rank must name alike.
std::uint64_t agreed_count(const Collective& collective) noexcept {
  return only_known_here(collective) ? 0 : collective.count;
}

}  // namespace

Engine::Engine(std::unique_ptr<Segment> segment, std::string group)
    : owned_(std::move(segment)),
      segment_(*owned_),
      group_(std::move(group)),
      policy_(choose_wait_policy(segment_.cpus())),
      mailbox_(segment_),
      operations_(kCapacity),
      released_(static_cast<std::size_t>(segment_.world_size())) {}

std::string Engine::doing(const Goal& goal) const {
  std::string text = base::cat("rank ", segment_.rank(), "/", segment_.world_size(), " group ", group_);
  if (goal.is_message) return text + ": " + mailbox_.doing(goal.number);
  if (!finished(started_)) text += ": " + describe(operation(finish_.sequence).collective);
  return text;
}

void Engine::advance(Cursor& cursor) {
  const Operation& current = operation(cursor.sequence);
  ++cursor.tick;
  if (!current.plan.open && cursor.tick == current.first_tick + current.plan.ticks) ++cursor.sequence;
}

std::uint64_t Engine::last_conflict(const Operation& later) const {
  for (std::uint64_t sequence = started_; !finished(sequence); --sequence) {
    const Operation& earlier = operation(sequence);
    if (conflict(later.collective, later.extent, earlier.collective, earlier.extent)) return sequence;
  }
  return 0;
}

void Engine::start(const Collective& collective, const Deadline& deadline) {
  const Turn turn(entered_);
  begin(collective, deadline);
}

void Engine::run(const Collective& collective, const Deadline& deadline) {
  const Turn turn(entered_);
  begin(collective, deadline);
  wait(Goal{collective.sequence, false}, deadline);
}

void Engine::begin(const Collective& collective, const Deadline& deadline) {
  if (has_failed(segment_)) throw_failure(segment_, doing());
  if (started_ - finish_.sequence + 1 >= kCapacity) wait({finish_.sequence, false}, deadline);
  LS_CHECK(collective.sequence == started_ + 1, "operation ", collective.sequence, " after ", started_);
  if (finished(started_)) first_ = collective.sequence;
  Operation& begun = operation(collective.sequence);
  begun.collective = collective;
  begun.extent = extent_of(collective, segment_.rank(), segment_.world_size());
  begun.input = {};
  begun.output = {};
  begun.reads_there.clear();
  if (asks_for_memory(collective, segment_.world_size())) {
    begun.input = segment_.locate(collective.input, begun.extent.input);
    begun.output = segment_.locate(collective.output, begun.extent.output);
  }
  const MemoryKind memory{begun.input.allocation != 0, begun.output.allocation != 0};
  // In place: a copy would load it in wider words than it was just stored in, and wait for the stores.
  static_assert(std::is_trivially_destructible_v<Plan>);
  new (&begun.plan) Plan(plan_for(collective, segment_.world_size(), memory, segment_.constants()));
  begun.signature = signature_of(collective, begun.plan.path, 0);
  begun.offsets.clear();
  begun.recv_offsets.clear();
  if (!collective.counts.empty()) {
    begun.offsets = offsets_of(collective.counts);
    begun.recv_offsets = offsets_of(collective.recv_counts);
  }
  // The caller's arrays need not outlive the call; that there are unequal parts must not be forgotten.
  begun.collective.counts = {begun.offsets.data(), begun.offsets.empty() ? 0 : begun.offsets.size() - 1};
  begun.collective.recv_counts = {};
  begun.first_tick = kNoTick;
  begun.after = last_conflict(begun);
  started_ = collective.sequence;
  progress();
  show_in_flight();
}

void Engine::start(const Message& message) {
  const Turn turn(entered_);
  if (has_failed(segment_)) throw_failure(segment_, doing());
  try {
    mailbox_.start(message);
  } catch (const MismatchError& error) {
    report_failure(segment_, FailureKind::kMismatch, -1, message.id, error.what());
    throw;
  }
  progress();
  show_in_flight();
}

bool Engine::has_ended() noexcept { return has_failed(segment_); }

// ---- stages ----

bool Engine::slot_is_free(std::uint64_t tick, bool needs_slot) {
  const std::uint64_t depth = needs_slot ? kSlots : kArrivals;
  if (tick < depth) return true;
  for (int rank = 0; rank < segment_.world_size(); ++rank) {
    std::uint64_t& known = released_[static_cast<std::size_t>(rank)];
    if (known + depth > tick) continue;
    known = rank == segment_.rank() ? finish_.tick : segment_.block(rank).released.load(std::memory_order_acquire);
    if (known + depth <= tick) return false;
  }
  return true;
}

bool Engine::try_post() {
  if (post_.sequence > started_) return false;
  Operation& current = operation(post_.sequence);
  if (current.after != 0 && !finished(current.after)) return false;
  if (current.first_tick == kNoTick) current.first_tick = post_.tick;
  const std::uint64_t index = post_.tick - current.first_tick;
  if (current.plan.open && index > 0) return false;
  const Path path = current.plan.path;
  const bool needs_slot = path == Path::kFlat || path == Path::kStaged || only_known_here(current.collective);
  if (!slot_is_free(post_.tick, needs_slot)) return false;
  if (needs_slot) segment_.require_slot(post_.tick);
  if (index == 0 && current.collective.packed) current.collective.packed->pack();
  post(segment_, current, index, post_.tick);
  Arrival& arrival = segment_.arrival(segment_.rank(), post_.tick);
  arrival.count = agreed_count(current.collective);
  arrival.released = finish_.tick;
  arrival.factor = current.collective.factor;
  arrival.signature.store(current.signature + (index << 48), std::memory_order_relaxed);
  arrival.sequence.store(static_cast<std::uint32_t>(post_.sequence), std::memory_order_relaxed);
  arrival.time_ms.store(coarse_ms(), std::memory_order_relaxed);
  arrival.stamp.store(post_.tick + 1, std::memory_order_release);
  advance(post_);
  wake_those_who_wait(segment_);
  return true;
}

bool Engine::try_work() {
  if (!behind(work_, post_)) return false;
  for (; arrived_ < segment_.world_size(); ++arrived_) {
    if (arrived_ == segment_.rank()) continue;
    const Arrival& theirs = segment_.arrival(arrived_, work_.tick);
    if (theirs.stamp.load(std::memory_order_acquire) != work_.tick + 1) return false;
    check_agreement(arrived_, theirs);
    released_[static_cast<std::size_t>(arrived_)] = theirs.released;
  }
  Operation& current = operation(work_.sequence);
  if (current.plan.open) close(current);
  // Who has given up owns its memory again: nothing more is begun there, and what was read meanwhile is no result.
  if (current.uses_peers_memory() && has_failed(segment_)) return false;
  work(segment_, current, work_.tick - current.first_tick, work_.tick);
  if (current.uses_peers_memory() && has_failed_meanwhile(segment_)) return false;
  arrived_ = 0;
  if (current.plan.awaits != Awaits::kNobody) {
    segment_.own().worked.store(work_.tick + 1, std::memory_order_release);
    wake_those_who_wait(segment_);
  }
  advance(work_);
  return true;
}

void Engine::close(Operation& current) {
  close_plan(segment_, current, work_.tick);
  if (post_.tick == current.first_tick + current.plan.ticks) ++post_.sequence;
}

bool Engine::awaits_others(const Operation& current) const noexcept {
  return current.plan.awaits == Awaits::kEveryone ||
         (current.plan.awaits == Awaits::kEveryoneAtRoot && segment_.rank() == current.collective.root);
}

bool Engine::try_finish() {
  if (!behind(finish_, work_)) return false;
  Operation& current = operation(finish_.sequence);
  if (awaits_others(current)) {
    for (; worked_ < segment_.world_size(); ++worked_) {
      if (worked_ == segment_.rank()) continue;
      if (segment_.block(worked_).worked.load(std::memory_order_acquire) <= finish_.tick) return false;
    }
    finish(segment_, current, finish_.tick - current.first_tick, finish_.tick);
    worked_ = 0;
  }
  const std::uint64_t sequence = finish_.sequence;
  advance(finish_);
  if (current.collective.packed && finished(sequence)) {
    current.collective.packed->unpack();
    current.collective.packed.reset();
  }
  segment_.own().released.store(finish_.tick, std::memory_order_release);
  wake_those_who_wait(segment_);
  return true;
}

bool Engine::progress() try {
  bool moved = false;
  for (bool again = !finished(started_); again; moved |= again) {
    // This order pipelines staged pieces: copy in piece k + 1, reduce piece k, copy out piece k - 1.
    again = try_post();
    again |= try_work();
    again |= try_finish();
  }
  if (!mailbox_.idle()) moved |= mailbox_.progress();
  return moved;
} catch (const MismatchError& error) {
  report_failure(segment_, FailureKind::kMismatch, -1, finish_.sequence, error.what());
  throw;
} catch (const Error& error) {
  report_failure(segment_, FailureKind::kAborted, -1, finish_.sequence, error.what());
  throw;
}

void Engine::check_agreement(int peer, const Arrival& theirs) {
  const Operation& current = operation(work_.sequence);
  const std::uint64_t signature = theirs.signature.load(std::memory_order_relaxed);
  // What this rank has posted would say the same, but that line has gone to the peers.
  const std::uint64_t mine = current.signature + ((work_.tick - current.first_tick) << 48);
  if (signature == mine && theirs.count == agreed_count(current.collective)) return;
  std::string text =
      base::cat("the ranks of group ", group_, " disagree: rank ", segment_.rank(), " calls ",
                describe(current.collective), ", rank ", peer, " calls ",
                describe(from_signature(signature, theirs.count, theirs.sequence.load(std::memory_order_relaxed))));
  const Path their_path = path_of(signature);
  if (current.plan.path != their_path) {
    text += base::cat("; paths ", name_of(current.plan.path), " and ", name_of(their_path),
                      " (all ranks must pass the same kind of memory: all from allocate(), or none)");
  } else if (!current.collective.counts.empty()) {
    text += "; all ranks must pass the same counts";
  }
  report_failure(segment_, FailureKind::kMismatch, peer, work_.sequence, text);
  throw_failure(segment_, doing());
}

// ---- the callers' side ----

PeerState Engine::last_seen(int rank) const {
  PeerState state;
  state.left = segment_.left(rank);
  const Arrival* latest = nullptr;
  std::uint64_t stamp = 0;
  for (std::uint64_t tick = 0; tick < kArrivals; ++tick) {
    const Arrival& arrival = segment_.arrival(rank, tick);
    const std::uint64_t at = arrival.stamp.load(std::memory_order_acquire);
    if (at > stamp) {
      stamp = at;
      latest = &arrival;
    }
  }
  if (latest == nullptr) return state;
  state.kind = from_signature(latest->signature.load(std::memory_order_relaxed), 0, 0).kind;
  state.sequence = latest->sequence.load(std::memory_order_relaxed);
  state.age = std::chrono::milliseconds(coarse_ms() - latest->time_ms.load(std::memory_order_relaxed));
  return state;
}

}  // namespace lockstep::shm
