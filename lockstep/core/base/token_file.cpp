#include "lockstep/core/base/token_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <memory>

#include "lockstep/core/base/check.h"

namespace lockstep::base {
namespace {

constexpr std::size_t kLongest = 1024;

/// From the descriptor, so that what was checked is what is read.
std::string read_private(int fd, const std::string& path) {
  struct stat info {};
  LS_SYSCALL(::fstat(fd, &info), "token file ", path);
  LS_REQUIRE(S_ISREG(info.st_mode), "token file ", path, ": not a regular file");
  LS_REQUIRE(info.st_uid == ::geteuid() || info.st_uid == 0, "token file ", path, ": it belongs to user ", info.st_uid,
             ", and this process runs as user ", ::geteuid());
  LS_REQUIRE((info.st_mode & 077) == 0, "token file ", path, ": others than its owner may use it; chmod 600 ", path);
  std::string text(kLongest + 2, '\0');
  const ssize_t got = LS_SYSCALL(::read(fd, text.data(), text.size()), "reading token file ", path);
  text.resize(static_cast<std::size_t>(got));
  return text;
}

}  // namespace

std::string read_token_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  LS_REQUIRE(fd >= 0, "token file ", path, ": ", std::strerror(errno));
  const auto close = [](const int* open) { ::close(*open); };
  const std::unique_ptr<const int, decltype(close)> closing(&fd, close);
  std::string text = read_private(fd, path);
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  LS_REQUIRE(!text.empty(), "token file ", path, ": it is empty; write a secret into it, as one line");
  LS_REQUIRE(text.size() <= kLongest, "token file ", path, ": expected one line of at most ", kLongest, " bytes");
  LS_REQUIRE(text.find_first_of(std::string_view("\0\r\n", 3)) == std::string::npos, "token file ", path,
             ": expected one line");
  return text;
}

}  // namespace lockstep::base
