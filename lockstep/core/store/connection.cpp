#include "lockstep/core/store/connection.h"

#include <sys/socket.h>

#include <cerrno>

namespace lockstep::store {
namespace {

constexpr std::size_t kKeepCapacity = 4 << 10;  // larger buffers go back once their frame is done

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

void clear(std::string& buffer) {
  buffer.clear();
  if (buffer.capacity() > kKeepCapacity) buffer.shrink_to_fit();
}

}  // namespace

bool Connection::read_some(std::span<char> scratch) {
  const ssize_t got = ::recv(fd_.get(), scratch.data(), scratch.size(), MSG_DONTWAIT);
  if (got <= 0) return got < 0 && would_block(errno);
  if (state_ != State::kClosing) input_.append(scratch.data(), static_cast<std::size_t>(got));
  return true;
}

bool Connection::write_some() {
  while (has_output()) {
    const ssize_t n = ::send(fd_.get(), output_.data() + sent_, output_.size() - sent_, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) return would_block(errno);
    sent_ += static_cast<std::size_t>(n);
  }
  clear(output_);
  sent_ = 0;
  if (state_ == State::kClosing) ::shutdown(fd_.get(), SHUT_WR);
  return true;
}

ParsedFrame Connection::next_frame() const {
  return parse_frame(input_, state_ == State::kHello ? Expect::kHello : Expect::kRequest);
}

void Connection::consume(std::size_t nbytes) {
  if (nbytes == input_.size()) {
    clear(input_);
  } else {
    input_.erase(0, nbytes);
  }
}

void Connection::wait_for(std::string_view key) {
  waiting_key_.assign(key);
  state_ = State::kWaiting;
}

void Connection::reply(FrameType type, std::string_view value) {
  if (state_ == State::kWaiting) state_ = State::kReady;
  waiting_key_.clear();
  output_ += encode_frame({.type = type, .value = value});
}

void Connection::reply_and_close(FrameType type, std::string_view reason, Deadline patience) {
  reply(type, reason);
  clear(input_);
  state_ = State::kClosing;
  patience_ = patience;
}

}  // namespace lockstep::store
