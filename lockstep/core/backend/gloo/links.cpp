#include "lockstep/core/backend/gloo/links.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <set>
#include <thread>

#include "lockstep/core/backend/gloo/address.h"
#include "lockstep/core/backend/gloo/meeting_point.h"
#include "lockstep/core/base/check.h"

namespace lockstep::gloo_tcp {
namespace {

using std::chrono::milliseconds;

/// For libgloo's thread to close what was shut down; what it has not closed by then is closed here, in 10 ms each.
constexpr milliseconds kShutDown{100};

/// Sorted, each once.
std::vector<int> peers_of(const Meeting& meeting, const GlooOptions& options) {
  std::set<int> peers(options.peers.begin(), options.peers.end());
  for (const int peer : peers) {
    LS_REQUIRE(peer >= 0 && peer < meeting.world_size && peer != meeting.rank, "rank ", meeting.rank, "/",
               meeting.world_size, " group ", meeting.group, " (gloo): peer ", peer, " is no other rank of the group");
  }
  if (peers.empty()) {
    for (int rank = 0; rank < meeting.world_size; ++rank) {
      if (rank != meeting.rank) peers.insert(rank);
    }
  }
  return {peers.begin(), peers.end()};
}

template <typename Done>
void wait_briefly(Duration at_most, Done done) {
  const Deadline deadline = Deadline::after(at_most);
  std::chrono::microseconds nap{10};
  while (!done() && !deadline.passed()) {
    std::this_thread::sleep_for(nap);
    nap = std::min(nap * 2, std::chrono::microseconds(1000));
  }
}

}  // namespace

Links::Links(Store& store, const Meeting& meeting, const GlooOptions& options)
    : connections_(static_cast<std::size_t>(meeting.world_size), nullptr) {
  ignore_sigpipe();
  const std::vector<int> peers = peers_of(meeting, options);
  const std::string address = local_address(options.interface, options.route_to);
  try {
    const std::shared_ptr<tcp::Device> device = device_at(address);
    context_ = std::dynamic_pointer_cast<tcp::Context>(device->createContext(meeting.rank, meeting.world_size));
    for (const int peer : peers) {
      auto connection = std::make_unique<Connection>(context_.get(), device.get(), peer);
      connections_[static_cast<std::size_t>(peer)] = connection.get();
      context_->getPair(peer) = std::move(connection);
    }
  } catch (const std::exception& error) {
    const int code = errno != 0 ? errno : EIO;
    throw SystemError(base::cat("rank ", meeting.rank, "/", meeting.world_size, " group ", meeting.group,
                                " (gloo): listening on ", address, ": ", error.what()),
                      code);
  }
  MeetingPoint(store, meeting, peers).meet(address, connections_, context_);
}

bool Links::gone(int peer) const noexcept {
  const std::lock_guard lock(mutex_);
  const Connection* const connection = to(peer);
  return connection == nullptr || connection->closed();
}

std::string Links::why_gone(int peer) const {
  const std::lock_guard lock(mutex_);
  Connection* const connection = to(peer);
  return connection == nullptr ? base::cat("rank ", peer, " is no peer") : connection->why_closed();
}

void Links::keep(std::unique_ptr<Buffer> buffer) {
  const std::lock_guard lock(mutex_);
  std::erase_if(kept_, [](const auto& kept) { return kept->completed(); });
  kept_.push_back(std::move(buffer));
}

void Links::close(Duration patience) noexcept {
  std::vector<Connection*> open;
  for (Connection* const connection : connections_) {
    if (connection != nullptr && !connection->closed()) open.push_back(connection);
  }
  // A connection that is closed with something unread is reset, and then what is not yet acknowledged is lost.
  wait_briefly(patience, [&] {
    return std::all_of(open.begin(), open.end(), [](Connection* connection) { return connection->drained(); });
  });
  for (Connection* const connection : open) connection->shut_down();
  wait_briefly(kShutDown, [&] {
    return std::all_of(open.begin(), open.end(), [](Connection* connection) { return connection->closed(); });
  });
  const std::lock_guard lock(mutex_);
  for (std::size_t peer = 0; peer < connections_.size(); ++peer) {
    if (connections_[peer] != nullptr) context_->getPair(static_cast<int>(peer)).reset();
  }
  connections_.clear();
  kept_.clear();
  context_.reset();
}

}  // namespace lockstep::gloo_tcp
