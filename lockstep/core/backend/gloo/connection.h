#pragma once
// Internal: what is libgloo's stays in this folder.

#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <string>

#include <gloo/transport/tcp/context.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/tcp/pair.h>
#include <gloo/transport/tcp/unbound_buffer.h>

namespace lockstep::gloo_tcp {

namespace tcp = ::gloo::transport::tcp;

/// What libgloo's thread needs of a Connection. A base, made before Pair: Pair's constructor begins to listen, and from
/// then on whoever connects makes that thread call handleEvents().
struct ConnectionState {
  std::atomic<bool> is_closed{false};
  std::mutex handling;  ///< held by libgloo's thread while it is in here; taken before the pair's m_
  std::exception_ptr thrown;
};

/// libgloo's connection to one peer, which says when it is closed and why.
///
/// What libgloo throws in its own thread would end the process: a message longer than its receive, bytes that are no
/// message of its own. Here it closes the connection.
/// Thread safety: all functions from any thread; the destructor after all others.
class Connection final : private ConnectionState, public tcp::Pair {
 public:
  Connection(tcp::Context* context, tcp::Device* device, int peer);
  ~Connection() override;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// For good; no transfer moves any more, and none writes into its memory.
  bool closed() const noexcept { return is_closed.load(std::memory_order_acquire); }
  /// Empty while it is not closed.
  std::string why_closed();
  bool connected();
  /// True when the peer's host has acknowledged all that was sent, or never will.
  bool drained();
  /// Ends both directions; libgloo's thread then closes it without anybody waiting for that thread.
  void shut_down();

  void handleEvents(int events) override;

 private:
  void changeState(state next) noexcept override;
};

/// One message of libgloo's, asked for its end without its waits: those close every connection when their time is up.
class Buffer final : public tcp::UnboundBuffer {
 public:
  using tcp::UnboundBuffer::UnboundBuffer;

  bool completed();
  /// Returns when completed or failed, and at the latest after `at_most`. Of the message that was moving when the
  /// connection closed libgloo tells nobody: `at_most` is what ends that wait.
  void wait(std::chrono::nanoseconds at_most, bool sending);
};

}  // namespace lockstep::gloo_tcp
