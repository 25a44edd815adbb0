#pragma once

#include <memory>
#include <string>

#include "lockstep/core/store/store.h"

namespace lockstep {

struct TcpStoreServerOptions {
  std::string address = "127.0.0.1";  ///< interface to listen on; other hosts can reach it only when asked for
  int port = 0;                       ///< 0: a free port is picked
  std::string token = {};             ///< a client must present the same token before anything is answered
  int max_clients = 4096;             ///< further connections are refused
};

/// Serves a Store over TCP from a thread of its own, until it is destroyed.
///
/// Thread safety: port() from any thread. Failure: the constructor throws SystemError that names address and port
/// ("port in use" says how to choose another).
class TcpStoreServer {
 public:
  explicit TcpStoreServer(TcpStoreServerOptions options);
  ~TcpStoreServer();
  TcpStoreServer(const TcpStoreServer&) = delete;
  TcpStoreServer& operator=(const TcpStoreServer&) = delete;

  /// The port it listens on.
  int port() const noexcept;
  /// The same contents, reached without a socket. Valid while the server lives.
  std::shared_ptr<Store> local();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// A client of TcpStoreServer. Retries refused connections until `deadline`, so that workers may start before the
/// server does; then TimeoutError naming host and port. A wrong token is a UsageError, at once.
///
/// Calls that take no deadline wait for the server as long as this one was allowed to, and at least 10 s. A server that
/// is gone is a PeerError; the client does not look for a new one. Keys have 1 to 1024 bytes, values up to 64 MiB.
std::shared_ptr<Store> connect_tcp_store(const std::string& host, int port, const std::string& token,
                                         Deadline deadline);

}  // namespace lockstep
