// What peers say of their operations: it must come in this rank's order, and say the same.

#include <cstring>

#include "lockstep/core/backend/wire/engine.h"
#include "lockstep/core/base/check.h"

namespace lockstep::wire {

bool Engine::listen() {
  bool moved = false;
  for (int peer = 0; peer < world_size_; ++peer) {
    if (peer == rank_) continue;
    Peer& from = peers_[static_cast<std::size_t>(peer)];
    while (from.heard < begun_) {
      const std::uint64_t first = operations_.front()->number;
      if (!hear(*operations_[from.heard + 1 - first], peer)) break;
      ++from.heard;
      moved = true;
    }
  }
  return moved;
}

bool Engine::hear(Operation& operation, int peer) {
  const auto at = static_cast<std::size_t>(peer);
  Peer& from = peers_[at];
  const std::byte* const value = from.headers->front();
  if (value == nullptr) return false;
  Header header;
  std::memcpy(&header, value, sizeof header);
  from.seen.kind = static_cast<OpKind>(header.kind);
  from.seen.sequence = header.sequence;
  from.seen_at = Clock::now();
  check_agreement(operation, peer, header);
  operation.heard[at] = true;
  --operation.unheard;
  if (!operation.factors.empty()) operation.factors[at] = header.factor;
  if (operation.plan.rides_in_header) {
    const Part& part = operation.piece.first.recvs[at];
    LS_CHECK(part.nbytes == header.payload, describe(operation.collective), ": rank ", peer, " sent ", header.payload,
             " bytes instead of ", part.nbytes);
    if (part.nbytes != 0) {
      std::memcpy(place(operation, operation.scratch.data(), part), value + sizeof header, part.nbytes);
    }
    if (operation.unheard == 0) {
      combine(operation, operation.piece, operation.scratch.data());
      operation.finished = operation.plan.pieces;
    }
  }
  from.headers->pop();
  return true;
}

void Engine::check_agreement(const Operation& operation, int peer, const Header& theirs) {
  const Collective& mine = operation.collective;
  const auto at = static_cast<std::size_t>(peer);
  if (!agree(operation.header, theirs)) {
    throw MismatchError(base::cat("the ranks of group ", group_,
                                  " disagree: ", disagreement(operation.header, describe(mine), rank_, theirs, peer)));
  }
  if (mine.kind != OpKind::kAllToAll || operation.recv_offsets.empty()) return;
  // Both ways: to send more than its receiver has room for would end the connection.
  const auto compare = [&](int from, std::size_t sent, int to, std::size_t expected) {
    if (sent == expected) return;
    throw MismatchError(base::cat("the ranks of group ", group_, " disagree: ", describe(mine), ": rank ", from,
                                  " sends ", sent, " elements to rank ", to, ", which expects ", expected));
  };
  compare(peer, theirs.to_you, rank_, operation.recv_offsets[at + 1] - operation.recv_offsets[at]);
  compare(rank_, operation.offsets[at + 1] - operation.offsets[at], peer, theirs.from_you);
}

}  // namespace lockstep::wire
