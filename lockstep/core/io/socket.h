#pragma once
// Internal: never included from a public header.

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/io/fd.h"

namespace lockstep::io {

/// "host:port", or "[host]:port" where the host is an IPv6 address.
std::string host_and_port(const std::string& host, int port);
/// The same with words in place of a port that is not known yet.
std::string host_and_port(const std::string& host, std::string_view port);

struct HostPort {
  std::string host;  ///< without brackets
  int port = 0;
};

/// What people write: "host", "host:port", "[host]" and "[host]:port", the latter two of an IPv6 address and no other.
/// `default_port` where the text has none. Nothing where it is none of these, as with an IPv6 address without brackets,
/// whose end might be a port: the caller says whose text it was.
std::optional<HostPort> split_host_port(std::string_view text, int default_port);

/// One connected TCP stream without Nagle's delay. Non-blocking underneath; each call waits until its deadline.
///
/// Thread safety: one thread sends and one receives. Failure: TimeoutError at the deadline, PeerError when the other
/// side is gone; both name it. After either the stream is of no more use.
class Socket {
 public:
  Socket() = default;
  /// Takes a connected descriptor; `peer` names the other side in messages.
  Socket(UniqueFd fd, std::string peer);

  void send_all(const void* data, std::size_t nbytes, Deadline deadline);
  void recv_all(void* data, std::size_t nbytes, Deadline deadline);
  int fd() const noexcept { return fd_.get(); }
  explicit operator bool() const noexcept { return static_cast<bool>(fd_); }
  const std::string& peer() const noexcept { return peer_; }

 private:
  void wait_for(short events, Deadline deadline, const char* what);

  UniqueFd fd_;
  std::string peer_;
};

/// Listens on one address. Non-blocking.
class Listener {
 public:
  /// `port` 0 takes a free one. Throws SystemError that names address and port, and for a port in use the way out;
  /// UsageError for an address that is none of this host's names.
  Listener(const std::string& address, int port);

  int fd() const noexcept { return fd_.get(); }
  int port() const noexcept { return port_; }
  /// In numbers, without the port: what the name stands for on this host.
  std::string address() const;
  /// The next connection (non-blocking, no Nagle's delay), or nothing when none waits. Throws SystemError, for instance
  /// when the process has no descriptors left.
  std::optional<UniqueFd> accept();

 private:
  UniqueFd fd_;
  int port_ = 0;
};

/// One round over a host's addresses, by index: `connect` has until its deadline, which leaves each of those to come a
/// fair share of `deadline`, and returns an errno; 0 ends the round. Returns 0, or the last error that may go away by
/// itself, or the last one where none may: a server that is not up yet counts for more than a protocol that is off.
int try_each(std::size_t addresses, const Deadline& deadline,
             const std::function<int(std::size_t, const Deadline&)>& connect);

/// Connects; retries a host that refuses or cannot be reached yet, until `deadline`: then TimeoutError that names host,
/// port and the last refusal. UsageError for a host without an address, at once. The resolver keeps time by itself.
Socket connect_tcp(const std::string& host, int port, Deadline deadline);

}  // namespace lockstep::io
