#include "lockstep/core/backend/gloo/gloo_transport.h"

#include <algorithm>
#include <chrono>
#include <mutex>

#include "lockstep/core/backend/gloo/links.h"
#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

using gloo_tcp::Buffer;
using gloo_tcp::Links;
using wire::Transfer;
using wire::TransferState;

/// Nobody is told when the connection closes under a message that moves: who waits looks again after so long.
constexpr std::chrono::milliseconds kLookAgain{10};
/// For the last bytes to be acknowledged.
constexpr std::chrono::milliseconds kFarewell{2000};

class GlooTransfer final : public Transfer {
 public:
  /// `buffer` is null where it could not begin.
  GlooTransfer(std::shared_ptr<Links> links, int peer, bool sending, std::unique_ptr<Buffer> buffer) noexcept
      : links_(std::move(links)),
        peer_(peer),
        sending_(sending),
        buffer_(std::move(buffer)),
        state_(buffer_ ? TransferState::kMoving : TransferState::kBroken) {}

  ~GlooTransfer() override {
    // libgloo stops reading, and writing, a connection whose next message has no buffer any more.
    if (state() == TransferState::kMoving) links_->keep(std::move(buffer_));
  }

  TransferState state() noexcept override {
    if (state_ != TransferState::kMoving) return state_;
    // Asked first: what completed before the connection closed counts.
    const bool gone = links_->gone(peer_);
    if (buffer_->completed()) {
      state_ = TransferState::kComplete;
    } else if (gone) {
      state_ = TransferState::kBroken;
    }
    return state_;
  }

  void wait(Duration at_most) noexcept override {
    if (state() == TransferState::kMoving) buffer_->wait(std::min<Duration>(at_most, kLookAgain), sending_);
  }

 private:
  std::shared_ptr<Links> links_;
  int peer_;
  bool sending_;
  std::unique_ptr<Buffer> buffer_;
  TransferState state_;
};

class GlooTransport final : public wire::Transport {
 public:
  GlooTransport(Store& store, const Meeting& meeting, const GlooOptions& options)
      : rank_(meeting.rank),
        world_size_(meeting.world_size),
        links_(std::make_shared<Links>(store, meeting, options)) {}
  ~GlooTransport() override { close(kFarewell); }

  std::string_view name() const noexcept override { return "gloo"; }
  int rank() const noexcept override { return rank_; }
  int world_size() const noexcept override { return world_size_; }

  std::unique_ptr<Transfer> send(int peer, int channel, const void* data, std::size_t nbytes) noexcept override {
    return begin(peer, channel, const_cast<void*>(data), nbytes, true);
  }
  std::unique_ptr<Transfer> recv(int peer, int channel, void* data, std::size_t capacity) noexcept override {
    return begin(peer, channel, data, capacity, false);
  }

  bool gone(int peer) noexcept override { return links_->gone(peer); }
  std::string why_gone(int peer) override { return links_->why_gone(peer); }
  bool any_thread() const noexcept override { return true; }
  void close(Duration patience) noexcept override {
    const std::lock_guard lock(mutex_);
    links_->close(patience);
  }
  bool takes_back_sends() const noexcept override { return true; }

 private:
  std::unique_ptr<Transfer> begin(int peer, int channel, void* data, std::size_t nbytes, bool sending) noexcept {
    std::unique_ptr<Buffer> buffer;
    const std::lock_guard lock(mutex_);
    if (!gone(peer)) {
      buffer = std::make_unique<Buffer>(links_->context(), data, nbytes);
      const auto slot = static_cast<std::uint64_t>(channel);
      try {
        if (sending) {
          buffer->send(peer, slot, 0, nbytes);
        } else {
          buffer->recv(peer, slot, 0, nbytes);
        }
      } catch (const std::exception&) {
        buffer.reset();  // The connection is closed, and says why.
      }
    }
    return std::make_unique<GlooTransfer>(links_, peer, sending, std::move(buffer));
  }

  int rank_;
  int world_size_;
  std::shared_ptr<Links> links_;
  std::mutex mutex_;  ///< a send from another thread, or the end
};

}  // namespace

std::unique_ptr<wire::Transport> make_gloo_transport(Store& store, const Meeting& meeting, const GlooOptions& options) {
  LS_REQUIRE(meeting.world_size > 0 && meeting.rank >= 0 && meeting.rank < meeting.world_size, "rank ", meeting.rank,
             " of ", meeting.world_size, ": no such rank");
  return std::make_unique<GlooTransport>(store, meeting, options);
}

}  // namespace lockstep
