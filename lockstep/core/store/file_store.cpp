// A store in a directory: each key is a file. Readers need no lock, since a file appears whole by a rename; writers
// take an flock on one lock file, so that an add() cannot lose a set() that comes between its read and its write.
//
// A key becomes a path by percent-encoding everything but letters, digits, '-' and '_'. An encoded key longer than a
// file name may be is cut into directories whose names end in '+', which no encoded key contains.

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "lockstep/core/base/check.h"
#include "lockstep/core/io/fd.h"
#include "lockstep/core/io/file.h"
#include "lockstep/core/store/store.h"
#include "lockstep/core/store/store_limits.h"

namespace lockstep {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

std::string encode(std::string_view key) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  constexpr std::size_t kMaxNameNbytes = 200;  // of 255: room for the temporary name beside
  std::string path;
  std::size_t name = 0;  // where the present file name begins
  for (const char c : key) {
    if (path.size() - name + 3 > kMaxNameNbytes) {
      path += "+/";
      name = path.size();
    }
    const auto byte = static_cast<unsigned char>(c);
    const bool plain =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
    if (plain) {
      path += c;
    } else {
      path += {'%', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return path;
}

void make_directories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) throw SystemError("file store: create directory " + path, error.value());
}

/// Waits for `pause`, then doubles it up to `longest`; never beyond the deadline.
void back_off(Duration& pause, Duration longest, Deadline deadline) {
  std::this_thread::sleep_for(std::min(pause, deadline.left()));
  pause = std::min(pause * 2, longest);
}

class FileStore final : public Store {
 public:
  explicit FileStore(const std::string& directory) : directory_(directory), lock_path_(directory + "/.lock") {
    make_directories(directory_);
  }

  void set(std::string_view key, std::string_view value) override {
    store::check_key(key);
    store::check_value(key, value);
    const WriteLock lock(*this);
    write(key, value);
  }

  std::string get(std::string_view key, Deadline deadline) override {
    Duration pause = milliseconds(1);
    for (;;) {
      if (auto value = try_get(key)) return *std::move(value);
      if (deadline.passed()) store::throw_get_timeout("store in " + directory_, key, deadline);
      back_off(pause, milliseconds(20), deadline);
    }
  }

  std::optional<std::string> try_get(std::string_view key) override {
    store::check_key(key);
    try {
      return io::read_file(path_of(key));
    } catch (const SystemError& error) {
      if (error.code() == ENOENT) return std::nullopt;
      throw;
    }
  }

  std::int64_t add(std::string_view key, std::int64_t amount) override {
    store::check_key(key);
    const WriteLock lock(*this);
    const std::int64_t sum = store::sum_of(key, try_get(key), amount);
    write(key, std::to_string(sum));
    return sum;
  }

  std::string compare_and_set(std::string_view key, std::optional<std::string_view> expected,
                              std::string_view desired) override {
    store::check_key(key);
    store::check_value(key, desired);
    const WriteLock lock(*this);
    auto present = try_get(key);
    const bool equal = present ? expected && *present == *expected : !expected;
    if (!equal) return present ? *std::move(present) : std::string();
    write(key, desired);
    return std::string(desired);
  }

  bool erase(std::string_view key) override {
    store::check_key(key);
    const WriteLock lock(*this);
    const std::string path = path_of(key);
    if (::unlink(path.c_str()) == 0) return true;
    if (errno == ENOENT) return false;
    throw SystemError("file store: remove " + path, errno);
  }

 private:
  /// Held by one writer of all processes; the mutex keeps the threads of this one from polling against each other.
  class WriteLock {
   public:
    explicit WriteLock(FileStore& store) : threads_(store.mutex_) {
      // A holder works for milliseconds; one that was stopped in the middle must not hold the others for ever.
      const Deadline deadline = Deadline::after(std::chrono::seconds(60));
      const std::string& path = store.lock_path_;
      fd_.reset(LS_SYSCALL(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666), "file store: open ", path));
      Duration pause = microseconds(50);
      while (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) throw SystemError("file store: lock " + path, errno);
        if (deadline.passed()) {
          throw TimeoutError(base::cat("file store: lock ", path, " timed out after ", seconds(deadline.timeout()),
                                       " s: another process holds it; is one stopped?"));
        }
        back_off(pause, milliseconds(2), deadline);
      }
    }

   private:
    std::unique_lock<std::mutex> threads_;
    io::UniqueFd fd_;  // the lock goes with the descriptor
  };

  std::string path_of(std::string_view key) const { return directory_ + "/" + encode(key); }

  void write(std::string_view key, std::string_view value) {
    const std::string path = path_of(key);
    const auto slash = path.rfind('/');
    if (slash > directory_.size()) make_directories(path.substr(0, slash));
    io::write_file_atomic(path, value, io::Durability::kCached);
  }

  const std::string directory_;
  const std::string lock_path_;
  std::mutex mutex_;
};

}  // namespace

std::shared_ptr<Store> make_file_store(const std::string& directory) {
  LS_REQUIRE(!directory.empty(), "file store: the directory must not be empty");
  return std::make_shared<FileStore>(directory);
}

}  // namespace lockstep
