#include "lockstep/core/backend/wire/links.h"

#include <algorithm>

#include "lockstep/core/backend/wire/header.h"

namespace lockstep::wire {

// ---- Incoming ----

Incoming::Incoming(Transport& transport, int peer, int channel, std::size_t capacity)
    : transport_(transport), peer_(peer), channel_(channel), slots_(kAhead) {
  for (Slot& slot : slots_) {
    slot.bytes.resize(capacity);
    post(slot);
  }
}

void Incoming::post(Slot& slot) {
  slot.transfer = transport_.recv(peer_, channel_, slot.bytes.data(), slot.bytes.size());
}

const std::byte* Incoming::front() {
  Slot& slot = slots_[next_];
  return slot.transfer->state() == TransferState::kComplete ? slot.bytes.data() : nullptr;
}

void Incoming::pop() {
  post(slots_[next_]);
  next_ = (next_ + 1) % kAhead;
}

// ---- Outgoing ----

void Outgoing::send(int peer, int channel, std::span<const std::byte> head, std::span<const std::byte> payload) {
  Value value;
  value.peer = peer;
  value.bytes.reserve(head.size() + payload.size());
  value.bytes.insert(value.bytes.end(), head.begin(), head.end());
  value.bytes.insert(value.bytes.end(), payload.begin(), payload.end());
  value.transfer = transport_.send(peer, channel, value.bytes.data(), value.bytes.size());
  if (value.transfer->state() == TransferState::kComplete) return;
  pending_nbytes_[static_cast<std::size_t>(peer)] += value.bytes.size();
  values_.push_back(std::move(value));
}

void Outgoing::collect() {
  std::erase_if(values_, [this](const Value& value) {
    if (value.transfer->state() == TransferState::kMoving) return false;
    pending_nbytes_[static_cast<std::size_t>(value.peer)] -= value.bytes.size();
    return true;
  });
}

// ---- FailureBox ----

FailureBox::FailureBox(Transport& transport)
    : transport_(transport),
      told_(static_cast<std::size_t>(transport.world_size())),
      receives_(static_cast<std::size_t>(transport.world_size())) {
  for (int peer = 0; peer < transport.world_size(); ++peer) {
    if (peer == transport.rank()) continue;
    const auto at = static_cast<std::size_t>(peer);
    receives_[at] = transport.recv(peer, kFailureChannel, &told_[at], sizeof(Failure));
  }
}

void FailureBox::report(FailureKind kind, int guilty, std::uint64_t sequence, std::string_view text) noexcept {
  const std::lock_guard lock(mutex_);
  if (failed_.load(std::memory_order_relaxed)) return;
  failure_.kind = kind;
  failure_.guilty = guilty;
  failure_.reporter = transport_.rank();
  failure_.sequence = sequence;
  failure_.set_text(text);
  failed_.store(true, std::memory_order_release);
  if (transport_.any_thread()) tell_everyone();
}

void FailureBox::tell_everyone() noexcept {
  telling_ = true;
  for (int peer = 0; peer < transport_.world_size(); ++peer) {
    if (peer == transport_.rank()) continue;
    sends_.push_back(transport_.send(peer, kFailureChannel, &failure_, sizeof failure_));
  }
}

bool FailureBox::poll() noexcept {
  if (failed_.load(std::memory_order_acquire)) {
    const std::lock_guard lock(mutex_);
    if (!telling_) tell_everyone();
    return true;
  }
  for (std::size_t peer = 0; peer < receives_.size(); ++peer) {
    if (receives_[peer] == nullptr || receives_[peer]->state() != TransferState::kComplete) continue;
    const std::lock_guard lock(mutex_);
    if (!failed_.load(std::memory_order_relaxed)) {
      failure_ = told_[peer];
      failed_.store(true, std::memory_order_release);
    }
    // It is passed on: this rank leaves now, and who has not been told yet would take that for the cause.
    if (!telling_) tell_everyone();
    return true;
  }
  return false;
}

}  // namespace lockstep::wire
