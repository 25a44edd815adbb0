// The server of the TCP store: one thread, one epoll set. Nothing in it waits for a single client: reads and writes
// take what the kernel has or takes, and a get() of a missing key is a line in a table until somebody sets the key.

#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/log.h"
#include "lockstep/core/io/socket.h"
#include "lockstep/core/store/connection.h"
#include "lockstep/core/store/table.h"
#include "lockstep/core/store/tcp_store.h"
#include "lockstep/core/store/wire.h"

namespace lockstep {
namespace {

using store::Connection;
using store::FrameType;
using store::ParsedFrame;
using store::Table;

constexpr std::uint64_t kListenerId = 0;
constexpr std::uint64_t kMailboxId = 1;
constexpr std::uint64_t kFirstClientId = 2;
constexpr std::size_t kMaxRefusals = 64;  // clients beyond max_clients that are told so; others are just closed
constexpr Duration kHelloPatience = std::chrono::seconds(30);
constexpr Duration kClosingPatience = std::chrono::seconds(5);

/// How other threads reach the server's thread: keys that they changed, and the wish to end.
class Mailbox {
 public:
  Mailbox() : fd_(LS_SYSCALL(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "store server: eventfd")) {}

  int fd() const noexcept { return fd_.get(); }
  void changed(std::string_view key) {
    {
      const std::lock_guard lock(mutex_);
      keys_.emplace_back(key);
    }
    ring();
  }
  void stop() noexcept {
    stopped_ = true;
    ring();
  }
  bool stopped() const noexcept { return stopped_; }
  std::vector<std::string> take() {
    eventfd_t ignored = 0;
    ::eventfd_read(fd_.get(), &ignored);
    const std::lock_guard lock(mutex_);
    return std::exchange(keys_, {});
  }

 private:
  void ring() noexcept { ::eventfd_write(fd_.get(), 1); }

  const io::UniqueFd fd_;
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;
  std::vector<std::string> keys_;
};

/// Signals are for the program's own threads: one started in this scope gets none.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &old_);
  }
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &old_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t old_;
};

io::UniqueFd open_spare() { return io::UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

}  // namespace

class TcpStoreServer::Impl {
 public:
  explicit Impl(TcpStoreServerOptions options)
      : options_(check(std::move(options))),
        listener_(std::in_place, options_.address, options_.port),
        port_(listener_->port()),
        name_("store at " + io::host_and_port(options_.address, port_)),
        table_(std::make_shared<Table>(name_)),
        mailbox_(std::make_shared<Mailbox>()),
        epoll_(LS_SYSCALL(::epoll_create1(EPOLL_CLOEXEC), "store server: epoll_create1")) {
    watch(EPOLL_CTL_ADD, listener_->fd(), EPOLLIN, kListenerId);
    watch(EPOLL_CTL_ADD, mailbox_->fd(), EPOLLIN, kMailboxId);
    const SignalsBlocked blocked;
    thread_ = std::thread([this] { run(); });
  }

  ~Impl() {
    mailbox_->stop();
    thread_.join();
    table_->close(name_ + ": the server has ended");
  }

  int port() const noexcept { return port_; }
  std::shared_ptr<Store> local() {
    return make_table_store(table_, [mailbox = mailbox_](std::string_view key) { mailbox->changed(key); });
  }

 private:
  using Clients = std::unordered_map<std::uint64_t, Connection>;

  static TcpStoreServerOptions check(TcpStoreServerOptions options) {
    LS_REQUIRE(options.max_clients > 0, "store server: max_clients=", options.max_clients, ": expected 1 or more");
    LS_REQUIRE(options.token.size() <= store::kMaxTokenNbytes, "store server: the token has ", options.token.size(),
               " bytes; expected at most ", store::kMaxTokenNbytes);
    return options;
  }

  void run() noexcept {
    try {
      while (!mailbox_->stopped()) turn();
    } catch (const std::exception& error) {
      // Nobody is below this thread; the clients see their connections close.
      base::log_line(base::LogLevel::kError, name_ + ": the server ends: " + error.what());
    }
    clients_.clear();
    listener_.reset();
  }

  void turn() {
    std::array<epoll_event, 64> events{};
    const int timeout_ms = unsettled_.empty() ? -1 : 500;
    const int n = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
    if (n < 0 && errno != EINTR) throw SystemError("epoll_wait", errno);
    for (int i = 0; i < n; ++i) {
      const std::uint64_t id = events[static_cast<std::size_t>(i)].data.u64;
      if (id == kListenerId) {
        accept_clients();
      } else if (id == kMailboxId) {
        for (const std::string& key : mailbox_->take()) wake(key);
      } else {
        serve(id, events[static_cast<std::size_t>(i)].events);
      }
    }
    drop_overdue();
  }

  void watch(int operation, int fd, std::uint32_t interest, std::uint64_t id) {
    epoll_event event{};
    event.events = interest;
    event.data.u64 = id;
    LS_SYSCALL(::epoll_ctl(epoll_.get(), operation, fd, &event), "store server: epoll_ctl");
  }

  void accept_clients() {
    try {
      while (auto fd = listener_->accept()) admit(*std::move(fd));
    } catch (const SystemError& error) {
      // Out of descriptors, most likely. The spare one makes room to accept and close: else the client would wait in
      // the queue, and this thread would be woken for it for ever.
      LS_LOG(kWarning, name_, ": cannot take a client: ", error.what());
      spare_.reset();
      const io::UniqueFd closed(::accept4(listener_->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!closed) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    if (!spare_) spare_ = open_spare();
  }

  void admit(io::UniqueFd fd) {
    const std::size_t limit = static_cast<std::size_t>(options_.max_clients);
    if (clients_.size() >= limit + kMaxRefusals) return;
    const std::uint64_t id = next_id_++;
    Connection& client = clients_.try_emplace(id, std::move(fd), Deadline::after(kHelloPatience)).first->second;
    unsettled_.insert(id);
    if (clients_.size() > limit) {
      const std::string reason = base::cat("it serves ", limit, " clients already; raise max_clients");
      client.reply_and_close(FrameType::kBusy, reason, Deadline::after(kClosingPatience));
    }
    const bool alive = client.write_some();
    watch(EPOLL_CTL_ADD, client.fd(), interest_of(client), id);
    if (!alive) drop(id);
  }

  /// A client whose reply has not left is not read: that keeps it to one frame in memory each way.
  static std::uint32_t interest_of(const Connection& client) { return client.has_output() ? EPOLLOUT : EPOLLIN; }

  void serve(std::uint64_t id, std::uint32_t events) {
    const auto at = clients_.find(id);
    if (at == clients_.end()) return;  // dropped earlier in this turn
    Connection& client = at->second;
    bool alive = (events & EPOLLERR) == 0;
    try {
      if (alive && (events & (EPOLLIN | EPOLLHUP)) != 0 && !client.has_output()) alive = client.read_some(scratch_);
      if (alive && client.has_output()) alive = client.write_some();
      if (alive) alive = advance(id, client);
    } catch (const std::exception& error) {  // no memory for its frame, say
      LS_LOG(kWarning, name_, ": drops a client: ", error.what());
      alive = false;
    }
    if (alive) {
      watch(EPOLL_CTL_MOD, client.fd(), interest_of(client), id);
    } else {
      drop(id);
    }
  }

  /// Answers what is complete in the client's input; false when the client is gone.
  bool advance(std::uint64_t id, Connection& client) {
    while (!client.has_output() && client.has_input()) {
      if (client.state() == Connection::State::kWaiting) {
        return refuse(id, FrameType::kMalformed, "a request while another one waits");
      }
      const ParsedFrame parsed = client.next_frame();
      if (parsed.status == ParsedFrame::Status::kIncomplete) return true;
      if (parsed.status == ParsedFrame::Status::kMalformed) return refuse(id, FrameType::kMalformed, parsed.reason);
      if (client.state() == Connection::State::kHello) {
        if (!store::equal_in_constant_time(parsed.frame.value, options_.token)) {
          LS_LOG(kInfo, name_, ": a client showed a wrong token");
          return refuse(id, FrameType::kRefused, "the token does not match");
        }
        client.welcome();
        unsettled_.erase(id);
        client.reply(FrameType::kValue, {});
      } else {
        answer(id, client, parsed.frame);
      }
      client.consume(parsed.nbytes);
      if (!client.write_some()) return false;
    }
    return true;
  }

  bool refuse(std::uint64_t id, FrameType type, std::string_view reason) {
    Connection& client = clients_.at(id);
    if (client.state() == Connection::State::kWaiting) stop_waiting(id, client);
    client.reply_and_close(type, reason, Deadline::after(kClosingPatience));
    unsettled_.insert(id);
    return client.write_some();
  }

  void stop_waiting(std::uint64_t id, const Connection& client) {
    const auto at = waiting_.find(client.waiting_key());
    std::erase(at->second, id);
    if (at->second.empty()) waiting_.erase(at);
  }

  void answer(std::uint64_t id, Connection& client, const store::Frame& request) {
    const std::string_view key = request.key;
    try {
      switch (request.type) {
        case FrameType::kSet:
          table_->set(key, request.value);
          client.reply(FrameType::kValue, {});
          return wake(key);
        case FrameType::kAdd: {
          const std::int64_t sum = table_->add(key, store::decode_int(request.value).value_or(0));
          client.reply(FrameType::kValue, store::encode_int(sum));
          return wake(key);
        }
        case FrameType::kCompareAndSet: {
          const bool has_expected = request.flags == store::kHasExpected;
          const auto expected = has_expected ? std::optional(request.expected) : std::nullopt;
          client.reply(FrameType::kValue, table_->compare_and_set(key, expected, request.value));
          return wake(key);
        }
        case FrameType::kErase: return client.reply(FrameType::kValue, table_->erase(key) ? "1" : "0");
        case FrameType::kGet:
        case FrameType::kTryGet: return answer_get(id, client, request);
        default: LS_CHECK(false, "store server: a request of type ", static_cast<int>(request.type));
      }
    } catch (const UsageError& error) {
      client.reply(FrameType::kUsage, error.what());
    }
  }

  void answer_get(std::uint64_t id, Connection& client, const store::Frame& request) {
    if (const auto value = table_->try_get(request.key)) {
      client.reply(FrameType::kValue, *value);
    } else if (request.type == FrameType::kTryGet) {
      client.reply(FrameType::kMissing, {});
    } else {
      client.wait_for(request.key);
      waiting_[client.waiting_key()].push_back(id);
    }
  }

  /// Answers those who wait for `key`, if it is there.
  void wake(std::string_view key) {
    const auto at = waiting_.find(std::string(key));
    if (at == waiting_.end()) return;
    const auto value = table_->try_get(key);
    if (!value) return;
    const std::vector<std::uint64_t> ids = std::move(at->second);
    waiting_.erase(at);
    for (const std::uint64_t id : ids) {
      Connection& client = clients_.at(id);
      client.reply(FrameType::kValue, *value);
      if (client.write_some()) {
        watch(EPOLL_CTL_MOD, client.fd(), interest_of(client), id);
      } else {
        drop(id);
      }
    }
  }

  void drop(std::uint64_t id) {
    const auto at = clients_.find(id);
    if (at->second.state() == Connection::State::kWaiting) stop_waiting(id, at->second);
    unsettled_.erase(id);
    clients_.erase(at);
  }

  void drop_overdue() {
    std::vector<std::uint64_t> overdue;
    for (const std::uint64_t id : unsettled_) {
      if (clients_.at(id).overdue()) overdue.push_back(id);
    }
    for (const std::uint64_t id : overdue) drop(id);
  }

  const TcpStoreServerOptions options_;
  std::optional<io::Listener> listener_;
  const int port_;
  const std::string name_;
  const std::shared_ptr<Table> table_;
  const std::shared_ptr<Mailbox> mailbox_;
  const io::UniqueFd epoll_;
  io::UniqueFd spare_ = open_spare();
  std::vector<char> scratch_ = std::vector<char>(64 << 10);  // one client's turn
  std::uint64_t next_id_ = kFirstClientId;
  Clients clients_;
  std::unordered_set<std::uint64_t> unsettled_;  // clients that must say hello or hang up within their patience
  std::unordered_map<std::string, std::vector<std::uint64_t>> waiting_;  // key -> clients whose get() waits for it
  std::thread thread_;
};

TcpStoreServer::TcpStoreServer(TcpStoreServerOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
TcpStoreServer::~TcpStoreServer() = default;
int TcpStoreServer::port() const noexcept { return impl_->port(); }
std::shared_ptr<Store> TcpStoreServer::local() { return impl_->local(); }

}  // namespace lockstep
