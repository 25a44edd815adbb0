// How hier waits, and how a failure inside a host, or between hosts, becomes the whole group's.

#include <algorithm>
#include <thread>

#include "lockstep/core/backend/background.h"
#include "lockstep/core/backend/hier/runner.h"
#include "lockstep/core/backend/turn.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/cpus.h"
#include "lockstep/core/base/error.h"

namespace lockstep::hier {
namespace {

constexpr std::uint64_t kYields = 200;  ///< shared memory hands over in less
constexpr auto kNap = std::chrono::microseconds(50);
constexpr auto kPeerCheck = std::chrono::milliseconds(20);
constexpr auto kGrace = std::chrono::milliseconds(1000);   ///< for the cause to arrive after its effect
constexpr auto kHearing = std::chrono::milliseconds(300);  ///< at a deadline: for others to say whom they wait for

}  // namespace

int Runner::rank_in_group(Engine engine, int rank) const {
  if (rank < 0 || engine == Engine::kFlat) return rank;
  if (engine == Engine::kInner) return topology_.local_ranks()[static_cast<std::size_t>(rank)];
  return topology_.carriers_at(topology_.local_rank())[static_cast<std::size_t>(rank)];
}

void Runner::end_all(std::string_view cause) noexcept {
  for (const Engine engine : {Engine::kInner, Engine::kCross, Engine::kFlat}) {
    if (Backend* const each = backend(engine)) each->abort(cause);
  }
}

void Runner::fail(Engine engine, const Error& error) {
  const auto report = [&](FailureKind kind, int guilty) {
    const std::string who = guilty < 0 ? std::string() : base::cat(" because of rank ", guilty);
    failure_.report(kind, guilty, finished_ + 1, base::cat(doing(), " failed", who, ": ", error.what()));
  };
  if (const auto* const gone = dynamic_cast<const PeerError*>(&error)) {
    report(FailureKind::kPeerDied, rank_in_group(engine, gone->rank()));
  } else if (const auto* const late = dynamic_cast<const TimeoutError*>(&error)) {
    report(FailureKind::kTimeout, missing_rank(rank_in_group(engine, late->waiting_for())));
  } else if (dynamic_cast<const MismatchError*>(&error) != nullptr) {
    report(FailureKind::kMismatch, -1);
  } else {
    // Another rank ended it; what it says of the cause may take longer than the end itself.
    const Deadline grace = Deadline::after(kGrace);
    while (!failure_.poll() && !grace.passed()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    report(FailureKind::kAborted, -1);
  }
  failure_.poll();
  throw_failed();
}

// Where a rank is missing all wait: ranks of its host for it, other hosts for that host's carriers, ranks that carry
// nothing for their own carriers. So each says for whom, and the one that says nothing is to be named. The first
// deadline ends the group: whoever hears of it answers at once, however late its own is, and leaves the verdict to the
// one that asked.
int Runner::missing_rank(int awaited) {
  if (awaited < 0) return awaited;
  const Deadline hearing = Deadline::after(calls_.asked() ? kHearing + kGrace : kHearing);
  calls_.say_waits_for(awaited);
  while (!failure_.poll() && !hearing.passed()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return calls_.last_awaited(awaited);
}

void Runner::throw_failed() {
  const Failure& failure = failure_.failure();
  end_all(failure.text);
  if (failure.kind == FailureKind::kMismatch) {
    const std::string& both = calls_.disagreement(failure.sequence, kGrace);
    if (!both.empty()) throw MismatchError(base::cat("the ranks of group ", group_, " disagree: ", both));
  }
  throw_failure(failure, topology_.rank, doing());
}

bool Runner::test(std::uint64_t sequence) {
  const Turn turn(entered_);
  progress();
  if (finished(sequence)) return true;
  if (failure_.poll()) throw_failed();
  return false;
}

void Runner::wait(std::uint64_t sequence, Deadline deadline) {
  const Turn turn(entered_);
  wait_until([&] { return finished(sequence); }, deadline, [this](const Deadline& passed) { time_out(passed); });
}

void Runner::wait_until(const std::function<bool()>& reached, const Deadline& deadline,
                        const std::function<void(const Deadline&)>& time_out) {
  InFlightList& list = InFlightList::of_this_thread();
  for (std::uint64_t polls = 0; !reached(); ++polls) {
    if (progress()) {
      polls = 0;
      continue;
    }
    if (list.has_others()) list.progress_others(this);
    if (polls < kYields && base::yield_briefly()) continue;
    if (failure_.poll()) {
      progress();
      if (reached()) return;
      throw_failed();
    }
    if (deadline.passed()) {
      time_out(deadline);
    } else if (deadline.bounded() && calls_.asked() && waiting_in() != Engine::kHere) {
      time_out(deadline.cut_short());
    }
    if (polls >= kYields) std::this_thread::sleep_for(kNap);
  }
}

Engine Runner::waiting_in() const {
  if (operations_.empty()) return Engine::kHere;
  const auto oldest = [this](Engine engine) -> const Step* {
    const auto& begun = in_engine_[static_cast<std::size_t>(engine)];
    if (begun.empty() || begun.front().operation != operations_.front().get()) return nullptr;
    return &begun.front().operation->program.steps[begun.front().step];
  };
  // What comes behind something else is late because of that.
  const Step* const inner = oldest(Engine::kInner);
  if (inner != nullptr && !inner->behind_cross && inner->after[0] < 0) return Engine::kInner;
  for (const Engine engine : {Engine::kCross, Engine::kFlat}) {
    if (oldest(engine) != nullptr) return engine;
  }
  return inner != nullptr ? Engine::kInner : Engine::kHere;
}

void Runner::time_out(const Deadline& deadline) {
  if (const Engine engine = waiting_in(); engine != Engine::kHere) {
    const std::uint64_t sequence = in_engine_[static_cast<std::size_t>(engine)].front().sequence;
    guarded(engine, [&] { backend(engine)->wait(sequence, deadline); });
    return;  // It came at the last moment.
  }
  const std::string text =
      base::cat(doing(), " timed out after ", seconds(deadline.timeout()), " s; a longer deadline: LOCKSTEP_TIMEOUT");
  failure_.report(FailureKind::kTimeout, -1, finished_ + 1, text);
  throw_failed();
}

// ---- messages: over the network, wherever the peer is ----

void Runner::start(const Message& message, Deadline deadline) {
  const Turn turn(entered_);
  guarded(Engine::kFlat, [&] { backends_.flat->start(message, deadline); });
  ++messages_in_flight_;
  progress();
  if (!idle()) Background::wake();
  show_in_flight();
}

bool Runner::test_message(std::uint64_t id, int& source) {
  const Turn turn(entered_);
  progress();
  const bool done = guarded(Engine::kFlat, [&] { return backends_.flat->test_message(id, source); });
  if (done && messages_in_flight_ > 0) --messages_in_flight_;
  return done;
}

int Runner::wait_message(std::uint64_t id, Deadline deadline) {
  const Turn turn(entered_);
  int source = -1;
  const auto arrived = [&] {
    int told = -1;  // Once: not again where the last look before the deadline has heard it.
    const bool done = guarded(Engine::kFlat, [&] { return backends_.flat->test_message(id, told); });
    if (told >= 0) source = told;
    return done;
  };
  wait_until(arrived, deadline, [&](const Deadline& passed) {
    // This names who is missing, or finds that the message came at the last moment.
    source = guarded(Engine::kFlat, [&] { return backends_.flat->wait_message(id, passed); });
  });
  if (messages_in_flight_ > 0) --messages_in_flight_;
  return source;
}

// ---- the rest ----

BackendMemory Runner::allocate(const Collective& collective, Deadline deadline) {
  const Turn turn(entered_);
  wait_until([this] { return operations_.empty(); }, deadline, [this](const Deadline& passed) { time_out(passed); });
  const std::uint64_t sequence = ++sequence_[static_cast<std::size_t>(Engine::kInner)];
  BackendMemory memory =
      guarded(Engine::kInner, [&] { return backends_.inner->allocate(collective.count, sequence, deadline); });
  finished_ = collective.sequence;
  return memory;
}

int Runner::look_after(std::span<const int> ranks) {
  const Turn turn(entered_);
  progress();
  if (failure_.poll()) throw_failed();
  const auto now = Clock::now();
  if (now - last_check_ < kPeerCheck) return -1;
  last_check_ = now;
  std::vector<int> local;
  for (const int rank : ranks) {
    if (topology_.host_of_rank[static_cast<std::size_t>(rank)] != topology_.host()) continue;
    local.push_back(topology_.local_rank_of[static_cast<std::size_t>(rank)]);
  }
  const int gone_here = guarded(Engine::kInner, [&] { return backends_.inner->look_after(local); });
  if (gone_here >= 0) return rank_in_group(Engine::kInner, gone_here);
  return guarded(Engine::kFlat, [&] { return backends_.flat->look_after(ranks); });
}

void Runner::abort(std::string_view cause) noexcept {
  failure_.report(FailureKind::kAborted, -1, 0, cause);
  end_all(cause);
}

// A look into each engine. Where only this thread may call the transport, none could tell its peers yet; elsewhere the
// background thread, which looks into each by itself, has left it then, and finds later that it has ended. Only now may
// the transport that they share be closed.
void Runner::close() noexcept {
  const Turn turn(entered_);
  (void)failure_.poll();
  for (const Engine engine : {Engine::kCross, Engine::kFlat}) {
    Backend* const each = backend(engine);
    if (each == nullptr) continue;
    try {
      each->look_after({});
    } catch (const std::exception&) {  // That it has failed.
    }
  }
  backends_.transport->close(wire::kFarewell);
}

PeerState Runner::last_seen(int rank) const {
  const auto at = static_cast<std::size_t>(rank);
  if (topology_.host_of_rank[at] == topology_.host()) return backends_.inner->last_seen(topology_.local_rank_of[at]);
  if (backends_.cross != nullptr && topology_.local_rank_of[at] == topology_.local_rank()) {
    return backends_.cross->last_seen(topology_.host_of_rank[at]);
  }
  return backends_.flat->last_seen(rank);
}

}  // namespace lockstep::hier
