#include "lockstep/core/io/file.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/log.h"
#include "lockstep/core/io/fd.h"

namespace lockstep::io {
namespace {

std::string directory_of(const std::string& path) {
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string name_of(const std::string& path) { return path.substr(path.rfind('/') + 1); }

/// Random, so that two hosts that share a directory do not meet in one name.
std::string random_suffix() {
  std::uint64_t bits = 0;
  LS_SYSCALL(::getrandom(&bits, sizeof bits, 0), "getrandom");
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(bits));
  return text.data();
}

/// Removes a file unless told that it has become what it should be.
class Unfinished {
 public:
  explicit Unfinished(std::string path) : path_(std::move(path)) {}
  ~Unfinished() {
    if (!path_.empty()) ::unlink(path_.c_str());
  }
  Unfinished(const Unfinished&) = delete;
  Unfinished& operator=(const Unfinished&) = delete;

  const std::string& path() const { return path_; }
  void finished() { path_.clear(); }

 private:
  std::string path_;
};

void write_all(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    const ssize_t written = LS_SYSCALL(::write(fd, content.data(), content.size()), "write ", path);
    content.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace

std::string read_file(const std::string& path) {
  const UniqueFd fd(LS_SYSCALL(::open(path.c_str(), O_RDONLY | O_CLOEXEC), "open ", path));
  struct stat status {};
  LS_SYSCALL(::fstat(fd.get(), &status), "stat ", path);
  std::string content;
  // The size is a hint: files of /proc say 0, and a file may grow while it is read.
  constexpr std::size_t kLeast = 4096;
  std::size_t size = 0;
  content.resize(status.st_size > 0 ? static_cast<std::size_t>(status.st_size) + 1 : kLeast);
  for (;;) {
    const ssize_t got = LS_SYSCALL(::read(fd.get(), content.data() + size, content.size() - size), "read ", path);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
    if (size == content.size()) content.resize(content.size() * 2);
  }
  content.resize(size);
  return content;
}

void write_file_atomic(const std::string& path, std::string_view content, Durability durability) {
  const std::string directory = directory_of(path);
  const std::string temporary = directory + "/." + name_of(path) + "." + random_suffix();
  UniqueFd fd(LS_SYSCALL(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666), "create ", path));
  Unfinished file(temporary);
  write_all(fd.get(), content, path);
  if (durability == Durability::kFlushed) LS_SYSCALL(::fsync(fd.get()), "fsync ", path);
  // Network file systems report a failed write as late as here; the descriptor is gone whatever close() returns.
  if (::close(fd.release()) != 0 && errno != EINTR) throw SystemError("close " + path, errno);
  LS_SYSCALL(::rename(file.path().c_str(), path.c_str()), "rename to ", path);
  file.finished();
  if (durability == Durability::kFlushed) {
    const UniqueFd parent(
        LS_SYSCALL(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC), "open ", directory));
    LS_SYSCALL(::fsync(parent.get()), "fsync ", directory);
  }
}

void remove_tree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) throw SystemError("remove " + path, error.value());
}

TempDirectory::TempDirectory(std::string_view prefix) {
  std::error_code error;
  const auto parent = std::filesystem::temp_directory_path(error);
  if (error) throw SystemError("find the directory for temporary files", error.value());
  std::string name = (parent / (std::string(prefix) + "-XXXXXX")).string();
  if (::mkdtemp(name.data()) == nullptr) throw SystemError("create directory " + name, errno);
  path_ = std::move(name);
}

TempDirectory::TempDirectory(TempDirectory&& other) noexcept : path_(std::exchange(other.path_, {})) {}

TempDirectory& TempDirectory::operator=(TempDirectory&& other) noexcept {
  std::swap(path_, other.path_);
  return *this;
}

TempDirectory::~TempDirectory() {
  if (path_.empty()) return;
  std::error_code error;
  std::filesystem::remove_all(path_, error);
  if (error) base::log_line(base::LogLevel::kWarning, "temporary directory " + path_ + " stays: " + error.message());
}

}  // namespace lockstep::io
