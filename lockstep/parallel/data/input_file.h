#pragma once
// Internal to the room.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

namespace lockstep::data {

/// A regular file, read front to back. Its size is known before a byte is read, so that a header's claim can be
/// compared with it before memory is reserved for it.
class InputFile {
 public:
  /// SystemError that names the file: missing, unreadable, a directory. UsageError: a pipe, socket or device, which
  /// could block for ever.
  explicit InputFile(std::string path);

  const std::string& path() const noexcept { return path_; }
  /// In bytes, when it was opened.
  std::uint64_t size() const noexcept { return size_; }
  /// Bytes read so far.
  std::uint64_t offset() const noexcept { return offset_; }
  /// The next `nbytes`. CorruptionError where the file ends first, SystemError where the machine fails.
  void read(void* to, std::uint64_t nbytes);
  /// The next four bytes, the most significant first.
  std::uint32_t read_big_endian32();
  /// Throws CorruptionError "<file>: offset <offset>: <what>".
  [[noreturn]] void corrupt(std::uint64_t offset, const std::string& what) const;

  /// False only where there is certainly no such file: what else is wrong with it, opening it reports.
  static bool exists(const std::string& path);

 private:
  struct Closer {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
  };
  std::string path_;
  std::uint64_t size_ = 0;
  std::uint64_t offset_ = 0;
  std::unique_ptr<std::FILE, Closer> file_;
};

}  // namespace lockstep::data
