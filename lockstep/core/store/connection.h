#pragma once
// Internal. One client as the TCP store's server sees it.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/io/fd.h"
#include "lockstep/core/store/wire.h"

namespace lockstep::store {

/// Bytes in, bytes out, and where the client stands; never waits. A client has one request in flight: the next one is
/// read when the reply has left, so neither buffer grows beyond one frame.
///
/// Thread safety: the server's thread only.
class Connection {
 public:
  enum class State {
    kHello,    ///< has not shown its token yet
    kReady,    ///< between requests
    kWaiting,  ///< its get() waits for waiting_key
    kClosing,  ///< was sent a last reply; what it still sends is dropped, so that a reset cannot overtake the reply
  };

  Connection(io::UniqueFd fd, Deadline patience) : fd_(std::move(fd)), patience_(patience) {}

  int fd() const noexcept { return fd_.get(); }
  State state() const noexcept { return state_; }
  const std::string& waiting_key() const noexcept { return waiting_key_; }
  /// True when it has been in kHello or kClosing for too long.
  bool overdue() const { return (state_ == State::kHello || state_ == State::kClosing) && patience_.passed(); }

  /// Takes up to scratch.size() bytes of what has arrived, by way of `scratch`; false when the client is gone.
  bool read_some(std::span<char> scratch);
  /// Sends what the kernel takes; false when the client is gone.
  bool write_some();
  bool has_output() const noexcept { return sent_ < output_.size(); }

  /// The next frame in the input, in kHello and kReady. Its views are valid until consume().
  ParsedFrame next_frame() const;
  void consume(std::size_t nbytes);
  bool has_input() const noexcept { return !input_.empty(); }

  void welcome() noexcept { state_ = State::kReady; }
  void wait_for(std::string_view key);
  void reply(FrameType type, std::string_view value);
  /// The last reply of this connection; the client has until `patience` to hang up.
  void reply_and_close(FrameType type, std::string_view reason, Deadline patience);

 private:
  io::UniqueFd fd_;
  State state_ = State::kHello;
  Deadline patience_;
  std::string input_;
  std::string output_;
  std::size_t sent_ = 0;  // of output_
  std::string waiting_key_;
};

}  // namespace lockstep::store
