#include "lockstep/core/backend/hier/calls.h"

#include <algorithm>
#include <thread>

namespace lockstep::hier {

using wire::Header;
using wire::TransferState;

Calls::Calls(wire::Transport& transport)
    : transport_(transport),
      kept_(kKept),
      told_(static_cast<std::size_t>(transport.world_size())),
      receives_(static_cast<std::size_t>(transport.world_size())),
      others_wait_for_(static_cast<std::size_t>(transport.world_size()), -1),
      heard_waiting_(static_cast<std::size_t>(transport.world_size())) {
  for (int peer = 0; peer < transport.world_size(); ++peer) {
    if (peer == transport.rank()) continue;
    const auto at = static_cast<std::size_t>(peer);
    receives_[at] = transport.recv(peer, wire::kHeaderChannel, told_[at].data(), sizeof(Window));
    heard_waiting_[at] = transport.recv(peer, wire::kMessageChannel, &others_wait_for_[at], sizeof(std::int32_t));
  }
}

std::uint64_t Calls::add(const Collective& call) {
  Header& header = kept_[call.sequence % kKept];
  header = wire::header_of(call);
  return wire::digest_of(header);
}

Calls::Window Calls::around(std::uint64_t sequence) const {
  Window window{};
  for (std::uint64_t i = 0; i < kTold; ++i) {
    const std::uint64_t number = sequence + i - kBefore;
    const Header& header = kept_[number % kKept];
    if (header.sequence == number) window[i] = header;
  }
  return window;
}

const Calls::Window* Calls::known(int rank) const {
  if (rank == transport_.rank()) return &mine_;
  const auto at = static_cast<std::size_t>(rank);
  return receives_[at]->state() == TransferState::kComplete ? &told_[at] : nullptr;
}

std::string Calls::difference(int rank, int peer) const {
  const Window* const ours = known(rank);
  const Window* const theirs = known(peer);
  if (ours == nullptr || theirs == nullptr || rank == peer) return {};
  for (const Header& header : *ours) {
    // Theirs may be around another call: both ranks may have found a failure of their own.
    const auto other = std::ranges::find(*theirs, header.sequence, &Header::sequence);
    if (header.sequence == 0 || other == theirs->end() || wire::agree(header, *other)) continue;
    return wire::disagreement(header, describe(wire::call_of(header)), rank, *other, peer);
  }
  return {};
}

const std::string& Calls::disagreement(std::uint64_t sequence, Duration patience) {
  if (!sends_.empty()) return text_;  // What was not heard then is not waited for again.
  mine_ = around(sequence);
  for (int peer = 0; peer < transport_.world_size(); ++peer) {
    if (peer == transport_.rank()) continue;
    sends_.push_back(transport_.send(peer, wire::kHeaderChannel, mine_.data(), sizeof mine_));
  }
  const Deadline deadline = Deadline::after(patience);
  for (bool waiting = true; waiting && text_.empty();) {
    waiting = false;
    for (std::size_t peer = 0; peer < told_.size() && text_.empty(); ++peer) {
      if (receives_[peer] == nullptr) continue;
      const TransferState state = receives_[peer]->state();
      if (state == TransferState::kComplete) text_ = difference(transport_.rank(), static_cast<int>(peer));
      waiting |= state == TransferState::kMoving && !deadline.passed();
    }
    if (waiting && text_.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  // This rank may not have come to the call at which the others part.
  for (int rank = 0; rank < transport_.world_size() && text_.empty(); ++rank) {
    for (int peer = rank + 1; peer < transport_.world_size() && text_.empty(); ++peer) text_ = difference(rank, peer);
  }
  return text_;
}

void Calls::say_waits_for(int rank) {
  if (!said_waiting_.empty()) return;
  waits_for_ = rank;
  for (int peer = 0; peer < transport_.world_size(); ++peer) {
    if (peer == transport_.rank()) continue;
    said_waiting_.push_back(transport_.send(peer, wire::kMessageChannel, &waits_for_, sizeof waits_for_));
  }
}

bool Calls::asked() const {
  return said_waiting_.empty() && std::ranges::any_of(heard_waiting_, [](const auto& heard) {
           return heard != nullptr && heard->state() == TransferState::kComplete;
         });
}

int Calls::last_awaited(int rank) const {
  for (int steps = 0; steps < transport_.world_size(); ++steps) {
    const auto at = static_cast<std::size_t>(rank);
    if (heard_waiting_[at] == nullptr || heard_waiting_[at]->state() != TransferState::kComplete) break;
    if (others_wait_for_[at] < 0 || others_wait_for_[at] == transport_.rank()) break;
    rank = others_wait_for_[at];
  }
  return rank;
}

}  // namespace lockstep::hier
