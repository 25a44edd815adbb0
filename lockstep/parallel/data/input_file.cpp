#include "lockstep/parallel/data/input_file.h"

#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <utility>

#include "lockstep/core/base/check.h"

namespace lockstep::data {

InputFile::InputFile(std::string path) : path_(std::move(path)) {
  struct stat info {};
  LS_SYSCALL(::stat(path_.c_str(), &info), "data: cannot read ", path_);
  if (S_ISDIR(info.st_mode)) throw SystemError(base::cat("data: cannot read ", path_), EISDIR);
  LS_REQUIRE(S_ISREG(info.st_mode), "data: ", path_, " is no regular file");
  file_.reset(std::fopen(path_.c_str(), "rbe"));
  if (file_ == nullptr) throw SystemError(base::cat("data: cannot open ", path_), errno);
  size_ = static_cast<std::uint64_t>(info.st_size);
}

void InputFile::read(void* to, std::uint64_t nbytes) {
  errno = 0;
  const std::uint64_t got = std::fread(to, 1, nbytes, file_.get());
  offset_ += got;
  if (got == nbytes) return;
  if (std::ferror(file_.get()) != 0) {
    throw SystemError(base::cat("data: cannot read ", path_, " at offset ", offset_), errno);
  }
  corrupt(offset_, base::cat("truncated: the file ends ", nbytes - got, " bytes early"));
}

std::uint32_t InputFile::read_big_endian32() {
  std::array<std::uint8_t, 4> bytes{};
  read(bytes.data(), bytes.size());
  std::uint32_t value = 0;
  for (const std::uint8_t byte : bytes) value = value << 8 | byte;
  return value;
}

void InputFile::corrupt(std::uint64_t offset, const std::string& what) const {
  throw CorruptionError(base::cat(path_, ": offset ", offset, ": ", what), path_, offset);
}

bool InputFile::exists(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 || errno != ENOENT;
}

}  // namespace lockstep::data
