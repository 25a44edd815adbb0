#pragma once
// Internal: what is libgloo's stays in this folder.

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/backend/gloo/connection.h"
#include "lockstep/core/backend/gloo/gloo_transport.h"
#include "lockstep/core/store/store.h"

namespace lockstep::gloo_tcp {

/// A rank's connections, from their meeting in the store to their end, and what was dropped while it moved.
///
/// Thread safety: as of wire::Transport; keep(), gone() and why_gone() from any thread, also while another one is in
/// close().
class Links {
 public:
  /// Connects and greets; see make_gloo_transport.
  Links(Store& store, const Meeting& meeting, const GlooOptions& options);
  ~Links() { close(Duration::zero()); }
  Links(const Links&) = delete;
  Links& operator=(const Links&) = delete;

  /// True where the connection is closed, for who is no peer, and after close().
  bool gone(int peer) const noexcept;
  std::string why_gone(int peer) const;
  const std::shared_ptr<tcp::Context>& context() const noexcept { return context_; }

  /// Owns a message that nobody waits for any more.
  void keep(std::unique_ptr<Buffer> buffer);
  /// Waits until what was sent is acknowledged, at most so long, then ends all connections.
  void close(Duration patience) noexcept;

 private:
  Connection* to(int peer) const noexcept {
    return peer >= 0 && peer < static_cast<int>(connections_.size()) ? connections_[static_cast<std::size_t>(peer)]
                                                                     : nullptr;
  }

  std::shared_ptr<tcp::Context> context_;  // Owns the connections and the device.
  // Of what follows, and of the connections' lives: groups that share these look at them from a thread each.
  mutable std::mutex mutex_;
  std::vector<Connection*> connections_;  // One a rank; null for this rank itself and for who is no peer.
  std::vector<std::unique_ptr<Buffer>> kept_;
};

}  // namespace lockstep::gloo_tcp
