#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace lockstep {

/// Errors are typed by what the caller can do about them; the text says who, what, where, how long and the way out.
///
/// Thread safety: values; copyable, immutable.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A bad argument or call order, found before any byte moved. Fix the program.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// The ranks disagree on the operation, count, dtype, root or order; the text names both sides. Fix the program.
class MismatchError : public Error {
 public:
  using Error::Error;
};

/// A peer died, or said that it failed. Rebuild the group.
class PeerError : public Error {
 public:
  PeerError(const std::string& what, int rank) : Error(what), rank_(rank) {}
  /// The peer's rank in the group of the call, or -1 where no single rank can be named.
  int rank() const noexcept { return rank_; }

 private:
  int rank_;
};

/// The deadline passed; the text names who is missing and where that rank was last seen. Rebuild the group.
class TimeoutError : public Error {
 public:
  explicit TimeoutError(const std::string& what, int waiting_for = -1, std::uint64_t sequence = 0)
      : Error(what), waiting_for_(waiting_for), sequence_(sequence) {}
  /// The first rank that had not arrived, or -1 where the wait was not for a rank (a store key, say).
  int waiting_for() const noexcept { return waiting_for_; }
  /// Sequence number of the operation in its group; 0 where the wait was not for an operation.
  std::uint64_t sequence() const noexcept { return sequence_; }

 private:
  int waiting_for_;
  std::uint64_t sequence_;
};

/// This group was aborted, here or by a peer; the text carries the first cause. Rebuild the group.
class AbortedError : public Error {
 public:
  using Error::Error;
};

/// The operating system refused. The text names the call and the object; `code()` is its errno.
class SystemError : public Error {
 public:
  /// Appends strerror(errno_value) to `what`.
  SystemError(const std::string& what, int errno_value);
  int code() const noexcept { return code_; }

 private:
  int code_;
};

/// A file's checksum or format is wrong at `offset` (bytes from its start).
class CorruptionError : public Error {
 public:
  CorruptionError(const std::string& what, std::string file, std::uint64_t offset = 0)
      : Error(what), file_(std::move(file)), offset_(offset) {}
  const std::string& file() const noexcept { return file_; }
  std::uint64_t offset() const noexcept { return offset_; }

 private:
  std::string file_;
  std::uint64_t offset_;
};

/// A bug of Lockstep's own: an internal check did not hold. Please report it with its text.
class InternalError : public Error {
 public:
  using Error::Error;
};

}  // namespace lockstep
