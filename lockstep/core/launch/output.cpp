#include "lockstep/core/launch/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "lockstep/core/base/check.h"

namespace lockstep::launch {

void LineSplitter::feed(std::string_view bytes, const std::function<void(std::string_view, char)>& each) {
  while (!bytes.empty()) {
    const std::size_t room = kLongest - partial_.size();
    const std::size_t end = bytes.substr(0, room).find_first_of("\r\n");
    if (end == std::string_view::npos) {
      const std::size_t taken = std::min(room, bytes.size());
      partial_.append(bytes.substr(0, taken));
      bytes.remove_prefix(taken);
      if (partial_.size() < kLongest) return;
      each(partial_, '\n');
      partial_.clear();
      continue;
    }
    partial_.append(bytes.substr(0, end));
    // At the end of what was read nobody knows what follows '\r'; a progress bar is the likelier case.
    const bool crlf = bytes[end] == '\r' && end + 1 < bytes.size() && bytes[end + 1] == '\n';
    each(partial_, crlf ? '\n' : bytes[end]);
    partial_.clear();
    bytes.remove_prefix(end + (crlf ? 2 : 1));
  }
}

void LineSplitter::finish(const std::function<void(std::string_view, char)>& each) {
  if (!partial_.empty()) each(partial_, '\n');
  partial_.clear();
}

void Tail::add(std::string_view text, char terminator) {
  const bool replace = std::exchange(replace_last_, terminator == '\r');
  if (replace && text.empty()) return;  // a progress bar's closing line end
  if (replace && !lines_.empty()) lines_.pop_back();
  lines_.emplace_back(text);
  if (lines_.size() > capacity_) lines_.pop_front();
}

void Sink::append(std::string_view bytes) {
  if (gone_) return;
  if (done_ == buffer_.size()) {
    buffer_.clear();
    done_ = 0;
  }
  buffer_.append(bytes);
}

void Sink::write_some() noexcept {
  // A pipe that polls writable takes this many bytes without blocking.
  constexpr std::size_t kAtOnce = 4096;
  if (!pending()) return;
  const ssize_t n = ::write(fd_, buffer_.data() + done_, std::min(kAtOnce, buffer_.size() - done_));
  if (n >= 0) {
    done_ += static_cast<std::size_t>(n);
    if (done_ > kCapacity) {
      buffer_.erase(0, done_);
      done_ = 0;
    }
  } else if (errno != EINTR && errno != EAGAIN) {
    gone_ = true;
    buffer_.clear();
    done_ = 0;
  }
}

LogFile::LogFile(const std::string& path) : path_(path) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (error) throw SystemError("can't create the directory of log file " + path, error.value());
  fd_.reset(
      LS_SYSCALL(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), "can't create log file ", path));
}

void LogFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = LS_SYSCALL(::write(fd_.get(), bytes.data(), bytes.size()), "can't write log file ", path_);
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
}

}  // namespace lockstep::launch
