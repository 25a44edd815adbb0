#pragma once
// A transport between ranks that are threads of one process: for tests, and for ThreadSanitizer, which cannot see into
// Gloo's or MPI's libraries.

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "lockstep/core/backend/wire/transport.h"

namespace lockstep::support {

/// What its ranks share.
class ThreadWire {
 public:
  explicit ThreadWire(int world_size) : gone_(static_cast<std::size_t>(world_size)), world_size_(world_size) {}

  int world_size() const noexcept { return world_size_; }
  /// Bytes that went from one rank to another so far.
  std::uint64_t nbytes(int from, int to) {
    const std::lock_guard lock(mutex_);
    return nbytes_[{from, to}];
  }
  /// Forgets what went so far.
  void reset() {
    const std::lock_guard lock(mutex_);
    nbytes_.clear();
  }
  /// From now on `rank` counts as ended: what it has not received will never arrive.
  void end(int rank) {
    const std::lock_guard lock(mutex_);
    gone_[static_cast<std::size_t>(rank)] = true;
    for (auto& [lane, halves] : lanes_) {
      for (const auto& [own, mine] :
           {std::pair{std::get<0>(lane), &halves.sends}, {std::get<1>(lane), &halves.recvs}}) {
        if (own != rank) continue;
        for (const auto& half : *mine) half->dropped = true;
        mine->clear();
      }
    }
    changed_.notify_all();
  }

 private:
  friend class ThreadTransport;
  friend class ThreadTransfer;

  struct Half {
    std::atomic<bool> complete{false};
    const std::byte* from = nullptr;
    std::byte* to = nullptr;
    std::size_t nbytes = 0;
    int peer = 0;
    bool dropped = false;  // Its owner has gone, or closed its end.
  };
  struct Lane {
    std::deque<std::shared_ptr<Half>> sends;
    std::deque<std::shared_ptr<Half>> recvs;
  };

  void match(int source, int destination, Lane& lane) {
    const auto drop = [](auto& halves) { std::erase_if(halves, [](const auto& half) { return half->dropped; }); };
    drop(lane.sends);
    drop(lane.recvs);
    while (!lane.sends.empty() && !lane.recvs.empty()) {
      Half& send = *lane.sends.front();
      Half& recv = *lane.recvs.front();
      if (send.nbytes > recv.nbytes) std::abort();  // Engines above never do this.
      if (send.nbytes != 0) std::memcpy(recv.to, send.from, send.nbytes);
      nbytes_[{source, destination}] += send.nbytes;
      send.complete = true;
      recv.complete = true;
      lane.sends.pop_front();
      lane.recvs.pop_front();
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::tuple<int, int, int>, Lane> lanes_;  // Source, destination, channel.
  std::map<std::pair<int, int>, std::uint64_t> nbytes_;
  std::vector<bool> gone_;
  int world_size_;
};

class ThreadTransfer final : public wire::Transfer {
 public:
  ThreadTransfer(ThreadWire& wire, std::shared_ptr<ThreadWire::Half> half) : wire_(wire), half_(std::move(half)) {}
  ~ThreadTransfer() override {
    const std::lock_guard lock(wire_.mutex_);
    half_->dropped = true;
  }
  wire::TransferState state() noexcept override {
    if (half_->complete) return wire::TransferState::kComplete;
    const std::lock_guard lock(wire_.mutex_);
    if (half_->complete) return wire::TransferState::kComplete;
    const bool broken = half_->dropped || wire_.gone_[static_cast<std::size_t>(half_->peer)];
    return broken ? wire::TransferState::kBroken : wire::TransferState::kMoving;
  }
  void wait(Duration at_most) noexcept override {
    std::unique_lock lock(wire_.mutex_);
    wire_.changed_.wait_for(lock, at_most,
                            [this] { return half_->complete || wire_.gone_[static_cast<std::size_t>(half_->peer)]; });
  }

 private:
  ThreadWire& wire_;
  std::shared_ptr<ThreadWire::Half> half_;
};

/// One rank's end. Its destruction counts as the end of the rank.
class ThreadTransport final : public wire::Transport {
 public:
  ThreadTransport(std::shared_ptr<ThreadWire> wire, int rank, bool any_thread = true)
      : wire_(std::move(wire)), rank_(rank), any_thread_(any_thread) {}
  ~ThreadTransport() override { wire_->end(rank_); }

  std::string_view name() const noexcept override { return "threads"; }
  int rank() const noexcept override { return rank_; }
  int world_size() const noexcept override { return wire_->world_size(); }
  std::unique_ptr<wire::Transfer> send(int peer, int channel, const void* data, std::size_t nbytes) noexcept override {
    auto half = std::make_shared<ThreadWire::Half>();
    half->from = static_cast<const std::byte*>(data);
    half->nbytes = nbytes;
    half->peer = peer;
    return begin(rank_, peer, channel, half, &ThreadWire::Lane::sends);
  }
  std::unique_ptr<wire::Transfer> recv(int peer, int channel, void* data, std::size_t capacity) noexcept override {
    auto half = std::make_shared<ThreadWire::Half>();
    half->to = static_cast<std::byte*>(data);
    half->nbytes = capacity;
    half->peer = peer;
    return begin(peer, rank_, channel, half, &ThreadWire::Lane::recvs);
  }
  bool gone(int peer) noexcept override {
    const std::lock_guard lock(wire_->mutex_);
    return wire_->gone_[static_cast<std::size_t>(peer)];
  }
  std::string why_gone(int) override { return "its thread ended"; }
  bool any_thread() const noexcept override { return any_thread_; }
  void close(Duration) noexcept override { wire_->end(rank_); }
  bool takes_back_sends() const noexcept override { return true; }

 private:
  using Halves = std::deque<std::shared_ptr<ThreadWire::Half>> ThreadWire::Lane::*;

  std::unique_ptr<wire::Transfer> begin(int source, int destination, int channel,
                                        const std::shared_ptr<ThreadWire::Half>& half, Halves halves) {
    const std::lock_guard lock(wire_->mutex_);
    half->dropped = wire_->gone_[static_cast<std::size_t>(rank_)];
    if (!half->dropped) {
      ThreadWire::Lane& lane = wire_->lanes_[{source, destination, channel}];
      (lane.*halves).push_back(half);
      wire_->match(source, destination, lane);
    }
    return std::make_unique<ThreadTransfer>(*wire_, half);
  }

  std::shared_ptr<ThreadWire> wire_;
  int rank_;
  bool any_thread_;
};

}  // namespace lockstep::support
