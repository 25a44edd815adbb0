#include "lockstep/core/backend/shm/engine.h"

#include <time.h>

#include <algorithm>

#include "lockstep/core/backend/shm/failure.h"
#include "lockstep/core/base/check.h"

namespace lockstep::shm {
namespace {

/// Milliseconds of a clock that costs 5 ns to read; for "last seen", where its 4 ms steps don't matter.
std::uint32_t coarse_ms() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return static_cast<std::uint32_t>(now.tv_sec * 1000 + now.tv_nsec / 1000000);
}

/// Bytes that an operation reads and writes on this rank.
struct Extent {
  std::size_t input = 0;
  std::size_t output = 0;
};

Extent extent_of(const Collective& collective, int world_size) {
  const std::size_t nbytes = collective.count * size_of(collective.dtype);
  const std::size_t all = nbytes * static_cast<std::size_t>(world_size);
  switch (collective.kind) {
    case OpKind::kAllReduce: return {nbytes, nbytes};
    case OpKind::kBroadcast: return {0, nbytes};
    case OpKind::kReduceScatter: return {all, nbytes};
    case OpKind::kAllGather: return {nbytes, all};
    case OpKind::kBarrier:
    case OpKind::kAllocate: break;
  }
  return {};
}

bool overlap(const void* a, std::size_t a_nbytes, const void* b, std::size_t b_nbytes) {
  const auto a_begin = reinterpret_cast<std::uintptr_t>(a);
  const auto b_begin = reinterpret_cast<std::uintptr_t>(b);
  return a_nbytes != 0 && b_nbytes != 0 && a_begin < b_begin + b_nbytes && b_begin < a_begin + a_nbytes;
}

}  // namespace

Engine::Engine(Segment& segment, std::string group, WaitPolicy policy, Tuning tuning)
    : segment_(segment),
      group_(std::move(group)),
      policy_(policy),
      tuning_(tuning),
      operations_(kCapacity),
      released_(static_cast<std::size_t>(segment.world_size())) {}

std::string Engine::doing() const {
  std::string text = base::cat("rank ", segment_.rank(), "/", segment_.world_size(), " group ", group_);
  if (!finished(started_)) text += ": " + describe(operation(finish_.sequence).collective);
  return text;
}

void Engine::advance(Cursor& cursor) const {
  const Operation& current = operation(cursor.sequence);
  ++cursor.tick;
  if (cursor.tick == current.first_tick + current.plan.ticks) ++cursor.sequence;
}

std::uint64_t Engine::last_conflict(const Collective& collective) const {
  const Extent mine = extent_of(collective, segment_.world_size());
  for (std::uint64_t sequence = started_; !finished(sequence); --sequence) {
    const Collective& earlier = operation(sequence).collective;
    const Extent theirs = extent_of(earlier, segment_.world_size());
    if (overlap(collective.input, mine.input, earlier.output, theirs.output) ||
        overlap(collective.output, mine.output, earlier.output, theirs.output) ||
        overlap(collective.output, mine.output, earlier.input, theirs.input)) {
      return sequence;
    }
  }
  return 0;
}

void Engine::start(const Collective& collective, Deadline deadline) {
  if (has_failed(segment_)) throw_failure(segment_, doing());
  if (started_ - finish_.sequence + 1 >= kCapacity) wait(finish_.sequence, deadline);
  const Extent extent = extent_of(collective, segment_.world_size());
  SharedAddress input;
  SharedAddress output;
  if (std::max(extent.input, extent.output) >= tuning_.direct_min_bytes) {
    input = segment_.locate(collective.input, extent.input);
    output = segment_.locate(collective.output, extent.output);
  }
  const MemoryKind memory{input.allocation != 0, output.allocation != 0};
  const std::uint64_t after = last_conflict(collective);
  const Plan plan = plan_for(collective, segment_.world_size(), memory, tuning_);
  started_ = collective.sequence;
  LS_CHECK(started_ == next_.sequence, "operation ", started_, " after ", next_.sequence - 1);
  operation(started_) = Operation{collective, plan, next_.tick, after, input, output};
  next_ = {started_ + 1, next_.tick + plan.ticks};
  progress();
}

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
  const Operation& current = operation(post_.sequence);
  if (current.after != 0 && !finished(current.after)) return false;
  const bool needs_slot = current.plan.path == Path::kFlat || current.plan.path == Path::kStaged;
  if (!slot_is_free(post_.tick, needs_slot)) return false;
  const std::uint64_t index = post_.tick - current.first_tick;
  post(segment_, current, index, post_.tick);
  Arrival& arrival = segment_.arrival(segment_.rank(), post_.tick);
  arrival.count = current.collective.count;
  arrival.released = finish_.tick;
  arrival.signature.store(signature_of(current.collective, current.plan.path, index), std::memory_order_relaxed);
  arrival.sequence.store(static_cast<std::uint32_t>(post_.sequence), std::memory_order_relaxed);
  arrival.time_ms.store(coarse_ms(), std::memory_order_relaxed);
  arrival.stamp.store(post_.tick + 1, std::memory_order_release);
  advance(post_);
  wake_those_who_wait();
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
  const Operation& current = operation(work_.sequence);
  work(segment_, current, work_.tick - current.first_tick, work_.tick);
  arrived_ = 0;
  if (current.plan.wait_worked) {
    segment_.own().worked.store(work_.tick + 1, std::memory_order_release);
    wake_those_who_wait();
  }
  advance(work_);
  return true;
}

bool Engine::try_finish() {
  if (!behind(finish_, work_)) return false;
  const Operation& current = operation(finish_.sequence);
  if (current.plan.wait_worked) {
    for (; worked_ < segment_.world_size(); ++worked_) {
      if (worked_ == segment_.rank()) continue;
      if (segment_.block(worked_).worked.load(std::memory_order_acquire) <= finish_.tick) return false;
    }
    finish(segment_, current, finish_.tick - current.first_tick, finish_.tick);
    worked_ = 0;
  }
  advance(finish_);
  segment_.own().released.store(finish_.tick, std::memory_order_release);
  wake_those_who_wait();
  return true;
}

bool Engine::progress() {
  bool moved = false;
  for (bool again = true; again; moved |= again) {
    // This order pipelines staged pieces: copy in piece k + 1, reduce piece k, copy out piece k - 1.
    again = try_post();
    again |= try_work();
    again |= try_finish();
  }
  return moved;
}

void Engine::check_agreement(int peer, const Arrival& theirs) {
  const Arrival& mine = segment_.arrival(segment_.rank(), work_.tick);
  const std::uint64_t signature = theirs.signature.load(std::memory_order_relaxed);
  if (signature == mine.signature.load(std::memory_order_relaxed) && theirs.count == mine.count) return;
  const Operation& current = operation(work_.sequence);
  std::string text =
      base::cat("the ranks of group ", group_, " disagree: rank ", segment_.rank(), " calls ",
                describe(current.collective), ", rank ", peer, " calls ",
                describe(from_signature(signature, theirs.count, theirs.sequence.load(std::memory_order_relaxed))));
  const Path their_path = path_of(signature);
  if (current.plan.path != their_path) {
    text += base::cat("; paths ", name_of(current.plan.path), " and ", name_of(their_path),
                      " (all ranks must pass the same kind of memory: all from allocate(), or none)");
  }
  report_failure(segment_, FailureKind::kMismatch, peer, work_.sequence, text);
  throw_failure(segment_, doing());
}

void Engine::wake_those_who_wait() {
  const auto me = static_cast<std::uint32_t>(segment_.rank() + 1);
  for (int rank = 0; rank < segment_.world_size(); ++rank) {
    RankBlock& block = segment_.block(rank);
    if (block.asleep_for.load(std::memory_order_relaxed) == me) ring(block);
  }
}

// ---- the callers' side ----

bool Engine::test(std::uint64_t sequence) {
  if (finished(sequence)) return true;
  progress();
  if (finished(sequence)) return true;
  if (has_failed(segment_)) throw_failure(segment_, doing());
  const auto now = Clock::now();
  if (now - last_check_ > std::chrono::milliseconds(20)) {
    last_check_ = now;
    check_peers();
  }
  return finished(sequence);
}

PeerState Engine::last_seen(int rank) const {
  PeerState state;
  state.left = segment_.block(rank).ready.load(std::memory_order_acquire) == 2;
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
