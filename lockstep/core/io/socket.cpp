#include "lockstep/core/io/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "lockstep/core/base/check.h"

namespace lockstep::io {
namespace {

using std::chrono::milliseconds;

struct FreeAddresses {
  void operator()(addrinfo* list) const noexcept { ::freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

/// Nothing when the resolver asks to try again later.
Addresses resolve(const std::string& host, int port, int flags) {
  LS_REQUIRE(port >= 0 && port <= 65535, "port ", port, " of host '", host, "': expected 0 to 65535");
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  const int status = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
  if (status == EAI_AGAIN) return nullptr;
  LS_REQUIRE(status == 0, "host '", host, "' has no address: ", ::gai_strerror(status));
  return Addresses(list);
}

/// Milliseconds for poll(): rounded up so that a wait does not spin through its last one.
int poll_timeout(Deadline deadline) {
  constexpr milliseconds kLongest = std::chrono::hours(1);
  if (!deadline.bounded()) return -1;
  const auto left = std::chrono::ceil<milliseconds>(deadline.left());
  return static_cast<int>(std::min(left, kLongest).count());
}

/// True when one of `events`, an error or a hang-up is there; false at the deadline.
bool poll_one(int fd, short events, Deadline deadline) {
  for (;;) {
    pollfd entry{fd, events, 0};
    const int ready = ::poll(&entry, 1, poll_timeout(deadline));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) throw SystemError("poll on a socket", errno);
    if (deadline.passed()) return false;
  }
}

bool is_gone(int error) { return error == ECONNRESET || error == EPIPE || error == ETIMEDOUT || error == ENOTCONN; }

bool may_come_later(int error) {
  return error == ECONNREFUSED || error == ECONNRESET || error == EHOSTUNREACH || error == ENETUNREACH ||
         error == ETIMEDOUT;
}

void disable_delay(int fd) noexcept {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // a refusal costs speed only
}

/// A connect to a free port of this very host can meet itself: the kernel may give the new socket that port for its own
/// end. Nobody listens there, so it counts as refused.
bool met_itself(int fd) {
  sockaddr_storage mine{};
  sockaddr_storage theirs{};
  socklen_t mine_size = sizeof mine;
  socklen_t theirs_size = sizeof theirs;
  return ::getsockname(fd, reinterpret_cast<sockaddr*>(&mine), &mine_size) == 0 &&
         ::getpeername(fd, reinterpret_cast<sockaddr*>(&theirs), &theirs_size) == 0 && mine_size == theirs_size &&
         std::memcmp(&mine, &theirs, mine_size) == 0;
}

/// Connects to one address; the errno when that fails, 0 when `fd` is connected.
int try_connect(const addrinfo& address, Deadline deadline, UniqueFd& fd) {
  fd.reset(::socket(address.ai_family, address.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, address.ai_protocol));
  if (!fd) return errno;
  if (::connect(fd.get(), address.ai_addr, address.ai_addrlen) != 0) {
    if (errno != EINPROGRESS && errno != EINTR) return errno;
    if (!poll_one(fd.get(), POLLOUT, deadline)) return ETIMEDOUT;
    int error = 0;
    socklen_t size = sizeof error;
    LS_SYSCALL(::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size), "getsockopt on a socket");
    if (error != 0) return error;
  }
  return met_itself(fd.get()) ? ECONNREFUSED : 0;
}

int bound_port(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  LS_SYSCALL(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), "getsockname on a socket");
  if (address.ss_family == AF_INET6) return ntohs(reinterpret_cast<sockaddr_in6*>(&address)->sin6_port);
  return ntohs(reinterpret_cast<sockaddr_in*>(&address)->sin_port);
}

[[noreturn]] void throw_listen_error(const std::string& address, int port, int error) {
  const std::string where = "listen on " + host_and_port(address, port);
  if (error == EADDRINUSE) {
    throw SystemError(
        where + ": the port is in use; choose another (--master-port or MASTER_PORT), or 0 for a free one", error);
  }
  if (error == EACCES) throw SystemError(where + ": ports below 1024 need privileges; choose a higher one", error);
  throw SystemError(where, error);
}

}  // namespace

std::string host_and_port(const std::string& host, int port) { return host_and_port(host, std::to_string(port)); }

std::string host_and_port(const std::string& host, std::string_view port) {
  const bool ipv6 = host.find(':') != std::string::npos;
  return base::cat(ipv6 ? "[" + host + "]" : host, ":", port);
}

std::optional<HostPort> split_host_port(std::string_view text, int default_port) {
  constexpr auto kNone = std::string_view::npos;
  std::string_view host = text;
  std::string_view rest;  // ":port", or nothing
  if (text.starts_with('[')) {
    const auto close = text.find(']');
    if (close == kNone) return std::nullopt;
    host = text.substr(1, close - 1);
    rest = text.substr(close + 1);
    if (host.find(':') == kNone) return std::nullopt;
  } else if (const auto colon = text.find(':'); colon != kNone) {
    host = text.substr(0, colon);
    rest = text.substr(colon);
  }
  if (host.empty() || host.find_first_of("[]") != kNone) return std::nullopt;
  HostPort out{std::string(host), default_port};
  if (rest.empty()) return out;
  // Of an IPv6 address without brackets the rest has another colon, which is no digit.
  const std::string_view port = rest.substr(1);
  const bool digits = port.find_first_not_of("0123456789") == kNone;
  if (rest.front() != ':' || port.empty() || port.size() > 5 || !digits) return std::nullopt;
  out.port = std::stoi(std::string(port));
  if (out.port > 65535) return std::nullopt;
  return out;
}

Socket::Socket(UniqueFd fd, std::string peer) : fd_(std::move(fd)), peer_(std::move(peer)) { disable_delay(fd_.get()); }

void Socket::wait_for(short events, Deadline deadline, const char* what) {
  if (poll_one(fd_.get(), events, deadline)) return;
  throw TimeoutError(base::cat(what, " ", peer_, " timed out after ", seconds(deadline.timeout()), " s"));
}

void Socket::send_all(const void* data, std::size_t nbytes, Deadline deadline) {
  const char* next = static_cast<const char*>(data);
  while (nbytes > 0) {
    const ssize_t sent = ::send(fd_.get(), next, nbytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      next += sent;
      nbytes -= static_cast<std::size_t>(sent);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      wait_for(POLLOUT, deadline, "send to");
    } else if (is_gone(errno)) {
      throw PeerError(base::cat(peer_, " closed the connection"), -1);
    } else if (errno != EINTR) {
      throw SystemError(base::cat("send to ", peer_), errno);
    }
  }
}

void Socket::recv_all(void* data, std::size_t nbytes, Deadline deadline) {
  char* next = static_cast<char*>(data);
  while (nbytes > 0) {
    const ssize_t got = ::recv(fd_.get(), next, nbytes, MSG_DONTWAIT);
    if (got > 0) {
      next += got;
      nbytes -= static_cast<std::size_t>(got);
    } else if (got == 0 || is_gone(errno)) {
      throw PeerError(base::cat(peer_, " closed the connection"), -1);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      wait_for(POLLIN, deadline, "receive from");
    } else if (errno != EINTR) {
      throw SystemError(base::cat("receive from ", peer_), errno);
    }
  }
}

Listener::Listener(const std::string& address, int port) {
  const Addresses addresses = resolve(address, port, AI_PASSIVE);
  int error = EAGAIN;
  for (const addrinfo* at = addresses.get(); at != nullptr; at = at->ai_next) {
    UniqueFd fd(::socket(at->ai_family, at->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, at->ai_protocol));
    const int on = 1;
    if (fd && ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        ::bind(fd.get(), at->ai_addr, at->ai_addrlen) == 0 && ::listen(fd.get(), SOMAXCONN) == 0) {
      port_ = bound_port(fd.get());
      fd_ = std::move(fd);
      return;
    }
    error = errno;
  }
  throw_listen_error(address, port, error);
}

std::string Listener::address() const {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  LS_SYSCALL(::getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&address), &size), "getsockname on a socket");
  std::array<char, NI_MAXHOST> text{};
  const int error = ::getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, text.data(), text.size(), nullptr,
                                  0, NI_NUMERICHOST);
  LS_CHECK(error == 0, "getnameinfo: ", ::gai_strerror(error));
  return text.data();
}

std::optional<UniqueFd> Listener::accept() {
  for (;;) {
    UniqueFd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd) {
      disable_delay(fd.get());
      return fd;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return std::nullopt;
    if (errno != EINTR && errno != ECONNABORTED) throw SystemError(base::cat("accept on port ", port_), errno);
  }
}

int try_each(std::size_t addresses, const Deadline& deadline,
             const std::function<int(std::size_t, const Deadline&)>& connect) {
  int error = 0;
  for (std::size_t index = 0; index < addresses; ++index) {
    const auto share = deadline.left() / static_cast<Duration::rep>(addresses - index);
    const int result = connect(index, deadline.bounded() ? Deadline::after(share) : deadline);
    if (result == 0) return 0;
    if (may_come_later(result) || !may_come_later(error)) error = result;
  }
  return error;
}

Socket connect_tcp(const std::string& host, int port, Deadline deadline) {
  constexpr Duration kLongestPause = milliseconds(100);
  const std::string peer = host_and_port(host, port);
  Duration pause = milliseconds(1);
  for (;;) {
    int error = EAGAIN;
    if (const Addresses addresses = resolve(host, port, 0)) {
      std::vector<const addrinfo*> list;
      for (const addrinfo* at = addresses.get(); at != nullptr; at = at->ai_next) list.push_back(at);
      UniqueFd fd;
      error = try_each(list.size(), deadline,
                       [&](std::size_t index, const Deadline& share) { return try_connect(*list[index], share, fd); });
      if (error == 0) return Socket(std::move(fd), peer);
      if (!may_come_later(error)) throw SystemError("connect to " + peer, error);
    }
    if (deadline.passed()) {
      throw TimeoutError(base::cat("connect to ", peer, " timed out after ", seconds(deadline.timeout()),
                                   " s: ", std::strerror(error), "; is the program that listens there running?"));
    }
    std::this_thread::sleep_for(std::min(pause, deadline.left()));
    pause = std::min(pause * 2, kLongestPause);
  }
}

}  // namespace lockstep::io
