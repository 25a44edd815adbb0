// The client of the TCP store. A call takes a connection from a small pool, or opens one: a get() that waits keeps its
// connection for itself, and other threads' calls go past it. A connection on which anything went wrong is closed.

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <utility>
#include <vector>

#include "lockstep/core/base/check.h"
#include "lockstep/core/io/socket.h"
#include "lockstep/core/store/store_limits.h"
#include "lockstep/core/store/tcp_store.h"
#include "lockstep/core/store/wire.h"

namespace lockstep {
namespace {

using store::Frame;
using store::FrameType;
using store::ParsedFrame;

constexpr std::size_t kMaxIdle = 4;
constexpr Duration kLeastPatience = std::chrono::seconds(10);
constexpr Duration kReconnectPatience = std::chrono::seconds(1);

struct Reply {
  FrameType type;
  std::string value;
};

class TcpStore final : public Store {
 public:
  TcpStore(std::string host, int port, std::string token, Deadline deadline)
      : host_(std::move(host)),
        port_(port),
        token_(std::move(token)),
        name_("store at " + io::host_and_port(host_, port)),
        patience_(std::max(deadline.timeout(), kLeastPatience)) {
    LS_REQUIRE(token_.size() <= store::kMaxTokenNbytes, name_, ": the token has ", token_.size(),
               " bytes; expected at most ", store::kMaxTokenNbytes);
    release(open(deadline, deadline));
  }

  void set(std::string_view key, std::string_view value) override {
    store::check_key(key);
    store::check_value(key, value);
    call({.type = FrameType::kSet, .key = key, .value = value}, patience());
  }

  std::string get(std::string_view key, Deadline deadline) override {
    store::check_key(key);
    if (deadline.passed()) {
      if (auto value = try_get(key)) return *std::move(value);
      store::throw_get_timeout(name_, key, deadline);
    }
    try {
      return call({.type = FrameType::kGet, .key = key}, deadline).value;
    } catch (const TimeoutError&) {
      store::throw_get_timeout(name_, key, deadline);
    }
  }

  std::optional<std::string> try_get(std::string_view key) override {
    store::check_key(key);
    Reply reply = call({.type = FrameType::kTryGet, .key = key}, patience());
    if (reply.type == FrameType::kMissing) return std::nullopt;
    return std::move(reply.value);
  }

  std::int64_t add(std::string_view key, std::int64_t amount) override {
    store::check_key(key);
    const std::string bytes = store::encode_int(amount);
    const Reply reply = call({.type = FrameType::kAdd, .key = key, .value = bytes}, patience());
    const auto sum = store::decode_int(reply.value);
    if (!sum) throw_not_ours("an answer to add of the wrong length");
    return *sum;
  }

  std::string compare_and_set(std::string_view key, std::optional<std::string_view> expected,
                              std::string_view desired) override {
    store::check_key(key);
    store::check_value(key, desired);
    if (expected) store::check_value(key, *expected);
    const std::uint8_t flags = expected ? store::kHasExpected : 0;
    const Frame frame{.type = FrameType::kCompareAndSet,
                      .flags = flags,
                      .key = key,
                      .value = desired,
                      .expected = expected.value_or(std::string_view())};
    return call(frame, patience()).value;
  }

  bool erase(std::string_view key) override {
    store::check_key(key);
    return call({.type = FrameType::kErase, .key = key}, patience()).value == "1";
  }

 private:
  Deadline patience() const { return patience_ == Duration::max() ? Deadline::none() : Deadline::after(patience_); }

  /// Connects until `reachable`, then shows the token until `deadline`.
  io::Socket open(Deadline reachable, Deadline deadline) {
    io::Socket socket = io::connect_tcp(host_, port_, reachable);
    const Reply reply = exchange(socket, {.type = FrameType::kHello, .value = token_}, deadline);
    if (reply.type != FrameType::kValue) throw_not_ours("an answer to hello that is none");
    return socket;
  }

  io::Socket acquire(Deadline deadline) {
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        io::Socket socket = std::move(idle_.back());
        idle_.pop_back();
        return socket;
      }
    }
    // The server was there when this client was made: one that refuses now has ended, and waiting will not help.
    const Deadline reachable = Deadline::after(std::min(kReconnectPatience, deadline.left()));
    try {
      return open(reachable, deadline);
    } catch (const TimeoutError&) {
      if (deadline.passed()) throw;
      throw PeerError(base::cat(name_, " cannot be reached any more; has the process that serves it ended?"), -1);
    }
  }

  void release(io::Socket socket) {
    const std::lock_guard lock(mutex_);
    if (idle_.size() < kMaxIdle) idle_.push_back(std::move(socket));
  }

  Reply call(const Frame& request, Deadline deadline) {
    io::Socket socket = acquire(deadline);
    Reply reply = exchange(socket, request, deadline);
    release(std::move(socket));
    if (reply.type == FrameType::kUsage) throw UsageError(reply.value);
    if (reply.type == FrameType::kMissing && request.type != FrameType::kTryGet) throw_not_ours("an unasked 'missing'");
    return reply;
  }

  /// One request and its reply. Throws for replies after which the server closes the connection.
  Reply exchange(io::Socket& socket, const Frame& request, Deadline deadline) {
    try {
      const std::string bytes = store::encode_frame(request);
      socket.send_all(bytes.data(), bytes.size(), deadline);
      Reply reply = receive(socket, deadline);
      switch (reply.type) {
        case FrameType::kRefused:
          throw UsageError(base::cat(name_, " refuses this process: ", reply.value,
                                     " (LOCKSTEP_JOB_TOKEN must be the same for all)"));
        case FrameType::kBusy: throw SystemError(base::cat(name_, ": ", reply.value), ECONNREFUSED);
        case FrameType::kMalformed: throw_not_ours("it did not understand a request: " + reply.value);
        default: return reply;
      }
    } catch (const PeerError&) {
      throw PeerError(base::cat(name_, " closed the connection", request.key.empty() ? "" : " during a call for key '",
                                request.key, request.key.empty() ? "" : "'", "; has the process that serves it ended?"),
                      -1);
    }
  }

  Reply receive(io::Socket& socket, Deadline deadline) {
    std::string bytes;
    for (;;) {
      const ParsedFrame parsed = store::parse_frame(bytes, store::Expect::kReply);
      if (parsed.status == ParsedFrame::Status::kMalformed) throw_not_ours(parsed.reason);
      if (parsed.status == ParsedFrame::Status::kFrame) return {parsed.frame.type, std::string(parsed.frame.value)};
      const std::size_t old_size = bytes.size();
      bytes.resize(parsed.nbytes);
      socket.recv_all(bytes.data() + old_size, parsed.nbytes - old_size, deadline);
    }
  }

  [[noreturn]] void throw_not_ours(const std::string& reason) const {
    throw SystemError(base::cat(name_, ": ", reason, "; is another program listening on this port?"), EPROTO);
  }

  const std::string host_;
  const int port_;
  const std::string token_;
  const std::string name_;
  const Duration patience_;  // of calls that have no deadline of their own
  std::mutex mutex_;
  std::vector<io::Socket> idle_;
};

}  // namespace

std::shared_ptr<Store> connect_tcp_store(const std::string& host, int port, const std::string& token,
                                         Deadline deadline) {
  return std::make_shared<TcpStore>(host, port, token, deadline);
}

}  // namespace lockstep
