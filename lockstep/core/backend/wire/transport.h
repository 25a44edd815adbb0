#pragma once
// What an engine between hosts (Gloo, MPI) must offer: bytes from one rank to another. Everything else (which rank
// sends what to whom, agreement, deadlines, reductions) is decided once, above it. Internal: never included from a
// public header.

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "lockstep/core/base/deadline.h"

namespace lockstep::wire {

/// How long a group that has failed waits until what it says of it is delivered.
inline constexpr std::chrono::milliseconds kFarewell{500};

enum class TransferState {
  kMoving,
  kComplete,  ///< sent: the buffer may be changed; received: it holds the bytes
  kBroken,    ///< it will never complete: the peer is gone
};

/// One send or receive in flight. Its buffer stays until it is complete, or the transport is closed or destroyed.
///
/// Thread safety: one thread at a time. Nothing throws: an engine may live in a module of its own.
class Transfer {
 public:
  virtual ~Transfer() = default;
  /// Never waits. What was complete stays so, also when the peer is gone since.
  virtual TransferState state() noexcept = 0;
  /// Gives the core away until the transfer is no longer moving, at most so long; may return earlier.
  virtual void wait(Duration at_most) noexcept = 0;
};

/// The connections of one rank to the others of its group.
///
/// Transfers of one (peer, channel) match in the order in which they were begun on either side; channels are apart from
/// each other. A receive may have room for more than is sent, never for less: the caller knows what comes. Many
/// transfers may be in flight in either direction.
/// Delivery: what a completed send handed over arrives, also when the transport is destroyed right after, unless the
///           machine or the network dies.
/// Thread safety: one thread at a time; send() and recv() from any thread at any time where any_thread() says so.
class Transport {
 public:
  /// Channels are 0 .. kChannels - 1, on every transport.
  static constexpr int kChannels = 1 << 14;

  virtual ~Transport() = default;

  /// "gloo", "mpi": the backend's name.
  virtual std::string_view name() const noexcept = 0;
  virtual int rank() const noexcept = 0;
  virtual int world_size() const noexcept = 0;

  /// Never waits, never null; a transfer that can't begin (the peer is gone) is kBroken from the start.
  virtual std::unique_ptr<Transfer> send(int peer, int channel, const void* data, std::size_t nbytes) noexcept = 0;
  virtual std::unique_ptr<Transfer> recv(int peer, int channel, void* data, std::size_t capacity) noexcept = 0;

  /// True once `peer` can't be reached any more: its process or connection ended. False where the engine can't know.
  virtual bool gone(int peer) noexcept = 0;
  /// What the engine says of a peer that is gone: "Connection closed by peer [10.9.0.2]:4711". Empty: nothing.
  virtual std::string why_gone(int peer) = 0;
  virtual bool any_thread() const noexcept = 0;

  /// Ends every connection, for good and for all views of it. What was sent is delivered where the peer takes it within
  /// `patience`. Afterwards no transfer touches its memory, which may go; those that were moving are kBroken.
  virtual void close(Duration patience) noexcept = 0;
  /// Whether close() keeps that promise for sends. Where it can't (MPI does not take a send back), what completes at a
  /// receiver once the sender has failed may be what the sender wrote to the buffer since.
  virtual bool takes_back_sends() const noexcept = 0;
};

}  // namespace lockstep::wire
