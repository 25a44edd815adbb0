#include "lockstep/core/backend/wire/view.h"

#include <algorithm>

#include "lockstep/core/backend/wire/header.h"
#include "lockstep/core/base/check.h"

namespace lockstep::wire {
namespace {

class ViewTransport final : public Transport {
 public:
  ViewTransport(std::shared_ptr<Transport> transport, std::vector<int> members, int index)
      : transport_(std::move(transport)), members_(std::move(members)), offset_(index * kChannelsPerGroup) {
    LS_CHECK(offset_ + kChannelsPerGroup <= kChannels, "view ", index, " of a transport");
    const auto own = std::ranges::find(members_, transport_->rank());
    LS_CHECK(own != members_.end(), "rank ", transport_->rank(), " is in none of its groups");
    rank_ = static_cast<int>(own - members_.begin());
  }

  std::string_view name() const noexcept override { return transport_->name(); }
  int rank() const noexcept override { return rank_; }
  int world_size() const noexcept override { return static_cast<int>(members_.size()); }
  std::unique_ptr<Transfer> send(int peer, int channel, const void* data, std::size_t nbytes) noexcept override {
    return transport_->send(member(peer), channel + offset_, data, nbytes);
  }
  std::unique_ptr<Transfer> recv(int peer, int channel, void* data, std::size_t capacity) noexcept override {
    return transport_->recv(member(peer), channel + offset_, data, capacity);
  }
  bool gone(int peer) noexcept override { return transport_->gone(member(peer)); }
  std::string why_gone(int peer) override { return transport_->why_gone(member(peer)); }
  bool any_thread() const noexcept override { return transport_->any_thread(); }
  void close(Duration patience) noexcept override { transport_->close(patience); }
  bool takes_back_sends() const noexcept override { return transport_->takes_back_sends(); }

 private:
  int member(int peer) const noexcept { return members_[static_cast<std::size_t>(peer)]; }

  std::shared_ptr<Transport> transport_;
  std::vector<int> members_;
  int offset_;
  int rank_ = 0;
};

}  // namespace

std::shared_ptr<Transport> make_view(std::shared_ptr<Transport> transport, std::vector<int> members, int index) {
  return std::make_shared<ViewTransport>(std::move(transport), std::move(members), index);
}

}  // namespace lockstep::wire
