#pragma once
// Ranks as threads, each with a transport; and what their messages hold.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "lockstep/core/backend/gloo/gloo_transport.h"
#include "lockstep/core/store/store.h"
#include "tests/support/ranks.h"

namespace lockstep::gloo_testing {

using wire::Transfer;
using wire::TransferState;
using wire::Transport;

inline Meeting meeting_of(int rank, int world_size, Duration timeout = std::chrono::seconds(30)) {
  return {"test", rank, world_size, Deadline::after(timeout), {}};
}

/// fn(transport, rank, store) on n threads; the transport is a unique_ptr that fn may reset.
template <typename Function>
void with_transports(int n, const Function& fn) {
  const auto store = make_memory_store();
  support::run_ranks(n, [&](int rank) {
    auto transport = make_gloo_transport(*store, meeting_of(rank, n), {});
    fn(transport, rank, *store);
  });
}

/// The end of a transfer; run_ranks bounds the wait.
inline TransferState finish(Transfer& transfer) {
  while (transfer.state() == TransferState::kMoving) transfer.wait(std::chrono::milliseconds(50));
  return transfer.state();
}

/// A message of its own for every seed.
inline std::vector<std::uint8_t> message_of(std::size_t nbytes, std::size_t seed) {
  std::vector<std::uint8_t> bytes(nbytes);
  for (std::size_t i = 0; i < nbytes; ++i) bytes[i] = static_cast<std::uint8_t>((i % 1021 * 31 + seed * 57 + 3) % 251);
  return bytes;
}

/// Both sides have come here.
inline void meet(Store& store, const std::string& name, int n) {
  store.add(name, 1);
  while (store.add(name, 0) < n) std::this_thread::yield();
}

}  // namespace lockstep::gloo_testing
