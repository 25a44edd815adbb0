#include "lockstep/core/backend/gloo/connection.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <gloo/common/error.h>

#include "lockstep/core/base/time_slice.h"

namespace lockstep::gloo_tcp {

// No timeout of libgloo's: the deadline of who waits counts, and a close() from another thread ends a connect().
Connection::Connection(tcp::Context* context, tcp::Device* device, int peer)
    : tcp::Pair(context, device, peer, ::gloo::kNoTimeout) {}

// libgloo's thread calls this class's functions until the descriptor is closed: that comes before any part of it goes.
Connection::~Connection() {
  {
    const std::lock_guard lock(m_);
    if (state_ != CLOSED) changeState(CLOSED);
  }
  const std::lock_guard left(handling);
}

std::string Connection::why_closed() {
  if (!closed()) return {};
  std::exception_ptr exception;
  {
    const std::lock_guard lock(m_);
    exception = ex_;
  }
  if (!exception) return "closed by this rank";
  try {
    std::rethrow_exception(exception);
  } catch (const std::exception& error) {
    // "[../gloo/transport/tcp/pair.cc:598] Connection closed by peer ...": the place is of no use to anybody here.
    const std::string text = error.what();
    const std::size_t end = text.starts_with('[') ? text.find("] ") : std::string::npos;
    return end == std::string::npos ? text : text.substr(end + 2);
  }
}

bool Connection::connected() {
  const std::lock_guard lock(m_);
  return state_ == CONNECTED;
}

bool Connection::drained() {
  const std::lock_guard lock(m_);
  if (state_ != CONNECTED) return true;
  int left = 0;
  return tx_.empty() && (::ioctl(fd_, SIOCOUTQ, &left) != 0 || left == 0);
}

void Connection::shut_down() {
  const std::lock_guard lock(m_);
  if (state_ == CONNECTED) ::shutdown(fd_, SHUT_RDWR);
}

void Connection::handleEvents(int events) {
  thread_local const base::ShortTimeSlices short_slices;  // of libgloo's thread, until it ends
  const std::lock_guard inside(handling);
  if (!thrown) {
    try {
      tcp::Pair::handleEvents(events);
    } catch (...) {
      thrown = std::current_exception();
    }
  }
  if (!thrown) return;
  // Who holds m_ may be waiting for this thread: then the next event, which comes as long as the descriptor is open.
  const std::unique_lock lock(m_, std::try_to_lock);
  if (lock && state_ != CLOSED) signalException(thrown);
}

void Connection::changeState(state next) noexcept {
  tcp::Pair::changeState(next);
  if (next == CLOSED) is_closed.store(true, std::memory_order_release);
}

bool Buffer::completed() {
  const std::lock_guard lock(m_);
  return sendCompletions_ > 0 || recvCompletions_ > 0;
}

void Buffer::wait(std::chrono::nanoseconds at_most, bool sending) {
  std::unique_lock lock(m_);
  (sending ? sendCv_ : recvCv_).wait_for(lock, at_most, [this] {
    return sendCompletions_ > 0 || recvCompletions_ > 0 || ex_ != nullptr;
  });
}

}  // namespace lockstep::gloo_tcp
