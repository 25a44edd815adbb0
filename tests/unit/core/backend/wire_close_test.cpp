// A group that has ended lets go of its caller's buffers, although a thread of Lockstep's own looks into it.

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/core/backend/wire/header.h"
#include "tests/unit/core/comm/collective_fixture.h"

namespace lockstep {
namespace {

using testing::World;
using wire::Transfer;
using wire::TransferState;

constexpr DType kInt = DType::kInt32;

/// Where a thread that is not `caller`, and has found that a message has come, stands until it is let go.
class Gate {
 public:
  explicit Gate(std::thread::id caller) : caller_(caller) {}

  void pass() {
    if (std::this_thread::get_id() == caller_) return;
    std::unique_lock lock(mutex_);
    if (came_) return;
    came_ = true;
    changed_.notify_all();
    // Not for ever: a caller that waits for it, as it should, lets nobody go.
    changed_.wait_for(lock, std::chrono::milliseconds(300), [this] { return open_; });
  }
  void await_somebody() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return came_; });
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  const std::thread::id caller_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool came_ = false;
  bool open_ = false;
};

class GatedTransfer final : public Transfer {
 public:
  GatedTransfer(std::unique_ptr<Transfer> transfer, std::shared_ptr<Gate> gate)
      : transfer_(std::move(transfer)), gate_(std::move(gate)) {}
  TransferState state() noexcept override {
    const TransferState state = transfer_->state();
    if (state == TransferState::kComplete) gate_->pass();
    return state;
  }
  void wait(Duration at_most) noexcept override { transfer_->wait(at_most); }

 private:
  std::unique_ptr<Transfer> transfer_;
  std::shared_ptr<Gate> gate_;
};

/// A rank's end, with a gate behind every small message that comes.
class GatedTransport final : public wire::Transport {
 public:
  GatedTransport(std::shared_ptr<support::ThreadWire> wire, int rank, std::shared_ptr<Gate> gate)
      : end_(std::move(wire), rank), gate_(std::move(gate)) {}

  std::string_view name() const noexcept override { return end_.name(); }
  int rank() const noexcept override { return end_.rank(); }
  int world_size() const noexcept override { return end_.world_size(); }
  std::unique_ptr<Transfer> send(int peer, int channel, const void* data, std::size_t nbytes) noexcept override {
    return end_.send(peer, channel, data, nbytes);
  }
  std::unique_ptr<Transfer> recv(int peer, int channel, void* data, std::size_t capacity) noexcept override {
    auto transfer = end_.recv(peer, channel, data, capacity);
    if (channel != wire::kMessageChannel) return transfer;
    return std::make_unique<GatedTransfer>(std::move(transfer), gate_);
  }
  bool gone(int peer) noexcept override { return end_.gone(peer); }
  std::string why_gone(int peer) override { return end_.why_gone(peer); }
  bool any_thread() const noexcept override { return true; }
  void close(Duration patience) noexcept override { end_.close(patience); }
  bool takes_back_sends() const noexcept override { return true; }

 private:
  support::ThreadTransport end_;
  std::shared_ptr<Gate> gate_;
};

std::shared_ptr<Communicator> make_group(Store& store, const std::string& backend,
                                         std::shared_ptr<wire::Transport> transport) {
  const Meeting meeting{
      "world", transport->rank(), transport->world_size(), Deadline::after(std::chrono::seconds(30)), {}};
  return Communicator::create(backend == "wire"
                                  ? wire::make_wire_backend(std::move(transport), meeting.group, meeting.deadline)
                                  : make_hier_backend(store, meeting, {"0", "1"}, std::move(transport)),
                              {});
}

class WireClose : public ::testing::TestWithParam<std::string> {};

TEST_P(WireClose, WhoLooksInHasLeftTheBuffersOfAGroupThatHasEnded) {
  const std::shared_ptr<Store> store = make_memory_store();
  const auto wire = std::make_shared<support::ThreadWire>(2);
  support::run_ranks(2, [&](int rank) {
    const auto gate = std::make_shared<Gate>(std::this_thread::get_id());
    const bool receives = rank == 0;
    std::shared_ptr<wire::Transport> transport;
    if (receives) transport = std::make_shared<GatedTransport>(wire, rank, gate);
    if (!receives) transport = std::make_shared<support::ThreadTransport>(wire, rank);
    auto communicator = make_group(*store, GetParam(), std::move(transport));
    std::int32_t x = rank;
    if (!receives) {
      store->wait("receiving", Deadline::after(std::chrono::seconds(30)));
      communicator->send(&x, 1, kInt, 0);
      store->wait("ended", Deadline::after(std::chrono::seconds(30)));
      return;
    }
    const Work work = communicator->recv_async(&x, 1, kInt, 1);
    store->set("receiving", "");
    gate->await_somebody();
    communicator->end("the caller has had enough");
    x = -1;  // Its own again.
    gate->open();
    communicator.reset();  // And the thread has left for good.
    EXPECT_EQ(x, -1);
    store->set("ended", "");
  });
}

INSTANTIATE_TEST_SUITE_P(Engines, WireClose, ::testing::Values("wire", "hier"),
                         [](const auto& each) { return each.param; });

}  // namespace
}  // namespace lockstep
