#include "lockstep/core/backend/wire/messages.h"

#include <algorithm>
#include <cstring>

#include "lockstep/core/backend/wire/header.h"
#include "lockstep/core/base/check.h"

namespace lockstep::wire {
namespace {

int data_channel(std::uint64_t number) {
  constexpr int kChannels = kChannelsPerGroup - kMessageDataChannels;
  return kMessageDataChannels + static_cast<int>(number % kChannels);
}

std::size_t nbytes_of(const Message& message) { return message.count * size_of(message.dtype); }

std::span<const std::byte> bytes_of(const Message& message) {
  return {static_cast<const std::byte*>(message.buffer), nbytes_of(message)};
}

}  // namespace

Messages::Messages(Transport& transport)
    : transport_(transport),
      inbox_(transport.rank()),
      outgoing_(transport),
      peers_(static_cast<std::size_t>(transport.world_size())) {
  for (int peer = 0; peer < transport.world_size(); ++peer) {
    if (is_self(peer)) continue;
    peers_[static_cast<std::size_t>(peer)].headers =
        std::make_unique<Incoming>(transport, peer, kMessageChannel, sizeof(MessageHeader) + kInlineBytes);
  }
}

void Messages::start(const Message& message) {
  if (message.kind == OpKind::kRecv) return inbox_.post(message);
  if (is_self(message.peer)) {
    const auto bytes = bytes_of(message);
    to_self_.push_back({{message.peer, message.tag, message.dtype, message.count}, {bytes.begin(), bytes.end()}});
    return;
  }
  sending_.push_back({message, nullptr});
  Sending& sending = sending_.back();
  auto& waiting = peers_[static_cast<std::size_t>(message.peer)].waiting;
  // In their order: not before one that found no room. Who receives late holds up nobody else.
  if (!waiting.empty() || !begin(sending)) waiting.push_back(&sending);
  drop_sent();
}

bool Messages::begin(Sending& sending) {
  const Message& message = sending.message;
  MessageHeader header{message.count, 0, message.tag, static_cast<std::uint32_t>(message.dtype)};
  const auto head = std::as_bytes(std::span(&header, 1));
  if (nbytes_of(message) > kInlineBytes) {
    header.number = ++peers_[static_cast<std::size_t>(message.peer)].large_messages;
    outgoing_.send(message.peer, kMessageChannel, head);
    sending.transfer = transport_.send(message.peer, data_channel(header.number), message.buffer, nbytes_of(message));
  } else {
    if (outgoing_.pending_nbytes(message.peer) >= kBufferedBytes) return false;
    outgoing_.send(message.peer, kMessageChannel, head, bytes_of(message));
  }
  sending.begun = true;
  return true;
}

bool Messages::drop_sent() {
  return std::erase_if(sending_, [](const Sending& sending) {
           return sending.begun &&
                  (sending.transfer == nullptr || sending.transfer->state() == TransferState::kComplete);
         }) != 0;
}

bool Messages::progress() {
  bool moved = false;
  outgoing_.collect();
  if (!sending_.empty()) {
    for (Peer& peer : peers_) {
      while (!peer.waiting.empty() && begin(*peer.waiting.front())) peer.waiting.pop_front();
    }
  }
  moved |= drop_sent();
  if (!inbox_.pending()) return moved;
  for (int peer = 0; peer < transport_.world_size(); ++peer) {
    while (is_self(peer) ? receive_from_self() : receive_from(peer)) moved = true;
  }
  for (auto each = receiving_.begin(); each != receiving_.end();) {
    if (each->transfer->state() != TransferState::kComplete) {
      ++each;
      continue;
    }
    inbox_.end(each->arriving);
    each = receiving_.erase(each);
    moved = true;
  }
  return moved;
}

bool Messages::receive_from(int from) {
  Incoming& headers = *peers_[static_cast<std::size_t>(from)].headers;
  const std::byte* const value = headers.front();
  if (value == nullptr) return false;
  MessageHeader header;
  std::memcpy(&header, value, sizeof header);
  const auto dtype = static_cast<DType>(header.dtype);
  Inbox::Arriving* const arriving = inbox_.begin({from, header.tag, dtype, header.count});
  if (arriving == nullptr) return false;
  const std::size_t nbytes = header.count * size_of(dtype);
  if (header.number == 0) {
    if (nbytes != 0) std::memcpy(arriving->destination, value + sizeof header, nbytes);
    inbox_.end(arriving);
  } else {
    receiving_.push_back({arriving, transport_.recv(from, data_channel(header.number), arriving->destination, nbytes)});
  }
  headers.pop();
  return true;
}

bool Messages::receive_from_self() {
  if (to_self_.empty()) return false;
  Inbox::Arriving* const arriving = inbox_.begin(to_self_.front().header);
  if (arriving == nullptr) return false;
  const std::vector<std::byte>& bytes = to_self_.front().bytes;
  if (!bytes.empty()) std::memcpy(arriving->destination, bytes.data(), bytes.size());
  inbox_.end(arriving);
  to_self_.pop_front();
  return true;
}

// ---- what is in flight ----

bool Messages::completed(std::uint64_t id) const {
  const auto is_it = [id](const Sending& sending) { return sending.message.id == id; };
  return std::none_of(sending_.begin(), sending_.end(), is_it) && !inbox_.holds(id);
}

int Messages::awaited(std::uint64_t id) const {
  for (const Sending& sending : sending_) {
    if (sending.message.id == id) return sending.message.peer;
  }
  if (const Message* const receive = inbox_.posted(id)) return receive->peer;
  for (const Receiving& receiving : receiving_) {
    if (receiving.arriving->id == id) return receiving.arriving->header.source;
  }
  return kAnySource;
}

Transfer* Messages::transfer_of(std::uint64_t id) {
  for (const Sending& sending : sending_) {
    if (sending.message.id == id) return sending.transfer.get();
  }
  for (const Receiving& receiving : receiving_) {
    if (receiving.arriving->id == id) return receiving.transfer.get();
  }
  const Message* const receive = inbox_.posted(id);
  if (receive == nullptr || receive->peer == kAnySource || is_self(receive->peer)) return nullptr;
  return &peers_[static_cast<std::size_t>(receive->peer)].headers->awaited();
}

std::string Messages::doing(std::uint64_t id) const {
  for (const Sending& sending : sending_) {
    if (sending.message.id == id) return describe(sending.message);
  }
  if (const Message* const receive = inbox_.posted(id)) return describe(*receive);
  return base::cat("message #", id);
}

}  // namespace lockstep::wire
