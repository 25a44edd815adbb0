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
/// Thread safety: as of wire::Transport; keep() from any thread.
class Links {
 public:
  /// Connects and greets; see make_gloo_transport.
  Links(Store& store, const Meeting& meeting, const GlooOptions& options);
  ~Links() { close(Duration::zero()); }
  Links(const Links&) = delete;
  Links& operator=(const Links&) = delete;

  /// Null for this rank itself, for who is no peer, and after close().
  Connection* to(int peer) const noexcept {
    return peer >= 0 && peer < static_cast<int>(connections_.size()) ? connections_[static_cast<std::size_t>(peer)]
                                                                     : nullptr;
  }
  const std::shared_ptr<tcp::Context>& context() const noexcept { return context_; }

  /// Owns a message that nobody waits for any more.
  void keep(std::unique_ptr<Buffer> buffer);
  /// Waits until what was sent is acknowledged, at most so long, then ends all connections.
  void close(Duration patience) noexcept;

 private:
  std::shared_ptr<tcp::Context> context_;  // Owns the connections and the device.
  std::vector<Connection*> connections_;   // One a rank.
  std::mutex mutex_;
  std::vector<std::unique_ptr<Buffer>> kept_;
};

}  // namespace lockstep::gloo_tcp
