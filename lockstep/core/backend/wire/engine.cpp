// How an operation goes: it begins (its header goes to everyone), is heard of by each peer, and its pieces go through
//
//   post      receives of both exchanges are posted
//   first     a peer gets its bytes once it has been heard of: before that it may be about to do something else
//   combine   in the order of pieces, since results may be inputs of the next operation
//   second    what was combined goes out
//
// Several pieces are in flight, of one operation or of several that do not touch each other's buffers. An operation
// whose first exchange rides in the headers has no piece in flight: it is complete when all are heard.

#include "lockstep/core/backend/wire/engine.h"

#include <algorithm>
#include <cstring>

#include "lockstep/core/backend/background.h"
#include "lockstep/core/backend/packed.h"
#include "lockstep/core/backend/turn.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/kernels/kernels.h"

namespace lockstep::wire {
namespace {

bool is_complete(const std::unique_ptr<Transfer>& transfer) {
  return transfer == nullptr || transfer->state() == TransferState::kComplete;
}

}  // namespace

Engine::Engine(std::shared_ptr<Transport> transport, std::string group)
    : transport_(std::move(transport)),
      group_(std::move(group)),
      rank_(transport_->rank()),
      world_size_(transport_->world_size()),
      failure_(*transport_),
      peers_(static_cast<std::size_t>(world_size_)),
      outgoing_(*transport_),
      messages_(*transport_),
      scratch_(kPiecesInFlight) {
  for (int peer = 0; peer < world_size_; ++peer) {
    if (peer == rank_) continue;
    peers_[static_cast<std::size_t>(peer)].headers =
        std::make_unique<Incoming>(*transport_, peer, kHeaderChannel, sizeof(Header) + kInlineBytes);
  }
}

// Before anything goes that a peer may still be sending to.
Engine::~Engine() { transport_->close(std::chrono::seconds(2)); }

void Engine::measure(Deadline deadline) {
  constexpr int kRounds = 4;  // The first waits for the slowest to form the group.
  double least_us = 1e9;
  Collective barrier;
  const auto run = [&](const Collective& collective) {
    append(collective);
    wait(Goal{appended_, false}, deadline);
  };
  for (int round = 0; round < kRounds; ++round) {
    const auto start = Clock::now();
    run(barrier);
    least_us = std::min(least_us, seconds(Clock::now() - start) * 1e6);
  }
  // The ranks must choose alike, so they agree on one figure: that of the slowest.
  Collective agreement;
  agreement.kind = OpKind::kAllReduce;
  agreement.dtype = DType::kFloat64;
  agreement.op = ReduceOp::kMax;
  agreement.count = 1;
  agreement.input = &least_us;
  agreement.output = &least_us;
  run(agreement);
  constants_.latency_us = least_us;
  measured_ = appended_;
}

// ---- beginning ----

void Engine::start(const Collective& collective, Deadline deadline) {
  const Turn turn(entered_);
  if (failure_.poll()) throw_failure(failure_.failure(), rank_, doing({appended_, false}));
  if (operations_.size() >= kCapacity) wait({finished_ + 1, false}, deadline);
  LS_CHECK(collective.sequence + measured_ == appended_ + 1, "operation ", collective.sequence, " after ",
           appended_ - measured_);
  append(collective);
  progress();
  if (!idle()) Background::wake();
  show_in_flight();
}

void Engine::append(const Collective& collective) {
  auto operation = std::make_unique<Operation>();
  operation->collective = collective;
  operation->plan = plan_for(collective, world_size_, constants_);
  operation->extent = extent_of(collective, rank_, world_size_);
  operation->offsets = offsets_of(collective.counts);
  operation->recv_offsets = offsets_of(collective.recv_counts);
  operation->header = header_of(collective);
  operation->number = ++appended_;
  operation->heard.resize(static_cast<std::size_t>(world_size_));
  operation->unheard = world_size_ - 1;
  if (collective.op == ReduceOp::kPreMulSum) operation->factors.resize(static_cast<std::size_t>(world_size_));
  // The caller's arrays need not outlive the call; that there are unequal parts must not be forgotten.
  operation->collective.counts = {operation->offsets.data(),
                                  operation->offsets.empty() ? 0 : operation->offsets.size() - 1};
  operation->collective.recv_counts = {};
  for (const auto& earlier : operations_) {
    if (conflict(collective, operation->extent, earlier->collective, earlier->extent))
      operation->after = earlier->number;
  }
  operations_.push_back(std::move(operation));
}

View Engine::view_of(const Operation& operation) const {
  return {operation.collective, rank_, world_size_, operation.offsets, operation.recv_offsets};
}

bool Engine::begin_operations() {
  bool moved = false;
  for (auto& operation : operations_) {
    if (operation->begun) continue;
    if (operation->after != 0 && !finished(operation->after)) break;
    begin(*operation);
    moved = true;
  }
  return moved;
}

void Engine::begin(Operation& operation) {
  const Collective& call = operation.collective;
  if (call.packed) call.packed->pack();
  if (!operation.factors.empty()) operation.factors[static_cast<std::size_t>(rank_)] = call.factor;
  const bool rides = operation.plan.rides_in_header;
  if (rides) {
    operation.piece = piece_of(view_of(operation), operation.plan, 0);
    operation.scratch.resize(operation.plan.scratch_nbytes);
  }
  Header header = operation.header;
  header.factor = call.factor;
  for (int peer = 0; peer < world_size_; ++peer) {
    const auto at = static_cast<std::size_t>(peer);
    std::span<const std::byte> payload;
    if (rides) {
      const Part& part = operation.piece.first.sends[at];
      payload = {place(operation, operation.scratch.data(), part), part.nbytes};
    }
    if (peer == rank_) {
      if (payload.empty()) continue;
      std::byte* const own = place(operation, operation.scratch.data(), operation.piece.first.recvs[at]);
      if (own != payload.data()) std::memmove(own, payload.data(), payload.size());
      continue;
    }
    if (call.kind == OpKind::kAllToAll && !operation.offsets.empty()) {
      header.to_you = operation.offsets[at + 1] - operation.offsets[at];
      header.from_you = operation.recv_offsets[at + 1] - operation.recv_offsets[at];
    } else {
      header.payload = payload.size();
    }
    outgoing_.send(peer, kHeaderChannel, std::as_bytes(std::span(&header, 1)), payload);
  }
  operation.begun = true;
  begun_ = operation.number;
}

// ---- pieces ----

std::byte* Engine::place(const Operation& operation, std::byte* scratch, const Part& part) {
  const Collective& call = operation.collective;
  switch (part.where) {
    // Only read through this pointer.
    case Where::kInput: return const_cast<std::byte*>(static_cast<const std::byte*>(call.input)) + part.offset;
    case Where::kOutput: return static_cast<std::byte*>(call.output) + part.offset;
    case Where::kScratch: return scratch + part.offset;
  }
  return nullptr;
}

bool Engine::post_pieces() {
  bool moved = false;
  for (auto& operation : operations_) {
    if (!operation->begun) break;
    if (operation->plan.rides_in_header) continue;
    for (; operation->posted < operation->plan.pieces; ++operation->posted) {
      if (flights_.size() >= kPiecesInFlight) return moved;
      post(*operation, operation->posted);
      moved = true;
    }
  }
  return moved;
}

void Engine::post(Operation& operation, std::uint64_t index) {
  Flight& flight = flights_.emplace_back();
  flight.operation = &operation;
  flight.piece = piece_of(view_of(operation), operation.plan, index);
  flight.slot = posted_pieces_++ % kPiecesInFlight;
  if (scratch_[flight.slot].size() < operation.plan.scratch_nbytes) {
    scratch_[flight.slot].resize(operation.plan.scratch_nbytes);
  }
  const auto world = static_cast<std::size_t>(world_size_);
  const auto me = static_cast<std::size_t>(rank_);
  const auto post_receives = [&](const Exchange& exchange, int channel, auto& transfers) {
    if (exchange.recvs.empty()) return;
    transfers.resize(world);
    for (std::size_t peer = 0; peer < world; ++peer) {
      const Part& part = exchange.recvs[peer];
      if (peer == me || part.nbytes == 0) continue;
      transfers[peer] = transport_->recv(static_cast<int>(peer), channel, place(flight, part), part.nbytes);
    }
  };
  flight.first_sends.resize(world);
  flight.second_sends.resize(world);
  post_receives(flight.piece.first, kFirstChannel, flight.first_recvs);
  post_receives(flight.piece.second, kSecondChannel, flight.second_recvs);
  const Part& own = flight.piece.first.sends[me];
  if (own.nbytes == 0) return;
  std::byte* const to = place(flight, flight.piece.first.recvs[me]);
  const std::byte* const from = place(flight, own);
  if (to != from) std::memmove(to, from, own.nbytes);
}

void Engine::start_sends(Flight& flight, const Exchange& exchange, int channel,
                         std::vector<std::unique_ptr<Transfer>>& transfers) {
  // Each rank starts at its right-hand neighbour, so that not all send to one rank at once.
  for (int step = 1; step < world_size_; ++step) {
    const auto to = static_cast<std::size_t>((rank_ + step) % world_size_);
    const Part& part = exchange.sends[to];
    if (part.nbytes == 0 || transfers[to] != nullptr || !flight.operation->heard[to]) continue;
    transfers[to] = transport_->send(static_cast<int>(to), channel, place(flight, part), part.nbytes);
  }
}

bool Engine::first_is_complete(Flight& flight) {
  const Exchange& first = flight.piece.first;
  for (std::size_t peer = 0; peer < first.sends.size(); ++peer) {
    const bool to_send = first.sends[peer].nbytes != 0 && static_cast<int>(peer) != rank_;
    if (to_send && flight.first_sends[peer] == nullptr) return false;
    // Its bytes may be here before its header, which holds its factor and says whether it means the same.
    if (first.recvs[peer].nbytes != 0 && static_cast<int>(peer) != rank_ && !flight.operation->heard[peer])
      return false;
  }
  return std::ranges::all_of(flight.first_recvs, is_complete) && std::ranges::all_of(flight.first_sends, is_complete);
}

void Engine::combine(const Operation& operation, const Piece& piece, std::byte* scratch) const {
  if (piece.result.nbytes == 0) return;
  std::vector<const void*> sources;
  for (std::size_t from = 0; from < static_cast<std::size_t>(world_size_); ++from) {
    const bool is_own = static_cast<int>(from) == rank_;
    sources.push_back(place(operation, scratch, is_own ? piece.own : piece.first.recvs[from]));
  }
  void* const destination = place(operation, scratch, piece.result);
  const Collective& call = operation.collective;
  kernels::reduce(sources, {&destination, 1}, piece.result.nbytes / size_of(call.dtype),
                  {call.dtype, call.op, world_size_, operation.factors});
}

bool Engine::move(Flight& flight, bool may_combine) {
  bool moved = false;
  if (!flight.combined) {
    start_sends(flight, flight.piece.first, kFirstChannel, flight.first_sends);
    if (!may_combine || !first_is_complete(flight)) return false;
    combine(*flight.operation, flight.piece, scratch_[flight.slot].data());
    flight.combined = true;
    moved = true;
  }
  if (!flight.piece.second.sends.empty()) {
    start_sends(flight, flight.piece.second, kSecondChannel, flight.second_sends);
  }
  return moved;
}

bool Engine::retire() {
  bool moved = false;
  while (!flights_.empty() && flights_.front().combined) {
    Flight& flight = flights_.front();
    const auto& to_send = flight.piece.second.sends;
    for (std::size_t peer = 0; peer < to_send.size(); ++peer) {
      if (to_send[peer].nbytes != 0 && flight.second_sends[peer] == nullptr) return moved;
    }
    if (!std::ranges::all_of(flight.second_recvs, is_complete)) return moved;
    if (!std::ranges::all_of(flight.second_sends, is_complete)) return moved;
    ++flight.operation->finished;
    flights_.pop_front();
    moved = true;
  }
  while (!operations_.empty()) {
    Operation& first = *operations_.front();
    if (!first.begun || first.unheard != 0 || first.finished < first.plan.pieces) break;
    if (first.collective.packed) first.collective.packed->unpack();
    finished_ = first.number;
    operations_.pop_front();
    moved = true;
  }
  return moved;
}

bool Engine::progress() try {
  bool moved = false;
  for (bool again = !operations_.empty(); again; moved |= again) {
    again = begin_operations();
    again |= post_pieces();
    again |= listen();
    bool may_combine = true;
    for (Flight& flight : flights_) {
      again |= move(flight, may_combine);
      may_combine &= flight.combined;
    }
    again |= retire();
  }
  outgoing_.collect();
  moved |= messages_.progress();
  return moved;
} catch (const MismatchError& error) {
  failure_.report(FailureKind::kMismatch, -1, finished_ + 1 - measured_, error.what());
  throw;
} catch (const Error& error) {
  failure_.report(FailureKind::kAborted, -1, finished_ + 1 - measured_, error.what());
  throw;
}

// ---- messages, and other groups ----

void Engine::start(const Message& message) {
  const Turn turn(entered_);
  if (failure_.poll()) throw_failure(failure_.failure(), rank_, doing({appended_, false}));
  try {
    messages_.start(message);
  } catch (const MismatchError& error) {
    failure_.report(FailureKind::kMismatch, -1, message.id, error.what());
    throw;
  }
  progress();
  if (!idle()) Background::wake();
  show_in_flight();
}

void Engine::abort(std::string_view cause) noexcept { failure_.report(FailureKind::kAborted, -1, 0, cause); }

// Where only this thread may call the transport, report() could tell nobody. Who looks in from elsewhere has left once
// this has its turn, and finds later that the group has ended.
void Engine::close() noexcept {
  const Turn turn(entered_);
  (void)failure_.poll();
  transport_->close(kFarewell);
}

PeerState Engine::last_seen(int rank) const {
  const Peer& peer = peers_[static_cast<std::size_t>(rank)];
  PeerState state = peer.seen;
  if (state.sequence != 0) state.age = Clock::now() - peer.seen_at;
  return state;
}

}  // namespace lockstep::wire
