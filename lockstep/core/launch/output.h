#pragma once
// What workers print: lines, log files, the shared terminal. Internal: never included from a public header.

#include <cstddef>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/io/fd.h"

namespace lockstep::launch {

/// Cuts a stream of bytes into lines. A line ends with '\n', or with '\r' as progress bars write it; one that grows
/// beyond kLongest is cut there, so that a worker that prints no line end costs no memory.
class LineSplitter {
 public:
  static constexpr std::size_t kLongest = 64 << 10;

  /// Calls `each(text, terminator)` for every line that is complete; terminator is '\n' or '\r'.
  void feed(std::string_view bytes, const std::function<void(std::string_view, char)>& each);
  /// The rest, when the stream ends without a line end.
  void finish(const std::function<void(std::string_view, char)>& each);

 private:
  std::string partial_;
};

/// The last lines of a stream, for a report. A line that a progress bar writes over is replaced.
class Tail {
 public:
  explicit Tail(std::size_t capacity = 20) : capacity_(capacity) {}
  void add(std::string_view text, char terminator);
  std::vector<std::string> lines() const { return {lines_.begin(), lines_.end()}; }

 private:
  std::size_t capacity_;
  std::deque<std::string> lines_;
  bool replace_last_ = false;
};

/// A descriptor shared with others (the terminal), written to only when it has room, so that whoever reads slowly holds
/// up the workers and never the supervisor. Its capacity is a soft bound: full() asks the caller to read no more.
class Sink {
 public:
  explicit Sink(int fd) : fd_(fd) {}

  void append(std::string_view bytes);
  /// Writes some of what is pending; call it when the descriptor is writable. A reader that is gone ends the sink.
  void write_some() noexcept;
  bool pending() const noexcept { return done_ < buffer_.size(); }
  bool full() const noexcept { return buffer_.size() - done_ > kCapacity; }
  int fd() const noexcept { return fd_; }

 private:
  static constexpr std::size_t kCapacity = 1 << 20;

  int fd_;
  std::string buffer_;
  std::size_t done_ = 0;
  bool gone_ = false;
};

/// Writes a log file that is created with its directories. Throws SystemError that names it.
class LogFile {
 public:
  explicit LogFile(const std::string& path);
  void write(std::string_view bytes);

 private:
  io::UniqueFd fd_;
  std::string path_;
};

}  // namespace lockstep::launch
