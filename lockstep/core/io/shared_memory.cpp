#include "lockstep/core/io/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <mutex>
#include <sstream>
#include <tuple>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/host.h"

namespace lockstep::io {
namespace {

/// One word, whatever the kernel says.
std::string own_boot() {
  const std::string id = base::boot_id();
  return id.empty() ? "unknown" : id;
}

/// The mappings of this process, so that ranks that are threads share one.
class Mappings {
 public:
  using Key = std::tuple<std::uint64_t, std::size_t, std::size_t>;  // inode, offset, nbytes

  std::shared_ptr<std::byte> get(const Key& key, int fd) {
    const std::lock_guard lock(mutex_);
    auto& entry = entries_[key];
    if (auto mapping = entry.lock()) return mapping;
    const auto [inode, offset, nbytes] = key;
    void* const address =
        ::mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, static_cast<off_t>(offset));
    if (address == MAP_FAILED) throw SystemError(base::cat("mmap of ", nbytes, " bytes of shared memory"), errno);
    std::shared_ptr<std::byte> mapping(static_cast<std::byte*>(address),
                                       [this, key](std::byte* data) { remove(key, data); });
    entry = mapping;
    return mapping;
  }

 private:
  void remove(const Key& key, std::byte* data) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(key);
    // Another thread may have mapped the same range anew between the last owner's end and this line.
    if (found != entries_.end() && found->second.expired()) entries_.erase(found);
    ::munmap(data, std::get<2>(key));
  }

  std::mutex mutex_;
  std::map<Key, std::weak_ptr<std::byte>> entries_;  // Guarded by mutex_.
};

Mappings& mappings() {
  static Mappings* const instance = new Mappings;  // Never destroyed: owners may outlive static destruction.
  return *instance;
}

}  // namespace

std::size_t page_size() noexcept {
  static const auto size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

SharedMemory::SharedMemory(UniqueFd fd) : fd_(std::move(fd)) {
  struct stat status {};
  LS_SYSCALL(::fstat(fd_.get(), &status), "fstat of shared memory");
  inode_ = status.st_ino;
}

SharedMemory SharedMemory::create(const std::string& label) {
  return SharedMemory(UniqueFd(LS_SYSCALL(::memfd_create(label.c_str(), MFD_CLOEXEC), "memfd_create ", label)));
}

std::string SharedMemory::handle() const {
  return base::cat(::getpid(), ' ', fd_.get(), ' ', inode_, ' ', own_boot(), ' ', base::host_name());
}

SharedMemory SharedMemory::attach(const std::string& handle) {
  std::istringstream in(handle);
  long pid = 0;
  int fd = -1;
  std::uint64_t inode = 0;
  std::string boot;
  std::string host;
  in >> pid >> fd >> inode >> boot >> host;
  LS_REQUIRE(!in.fail(), "malformed shared memory handle '", handle, "'");
  LS_REQUIRE(boot == own_boot(), "shared memory was made on host ", host, ", this process runs on ", base::host_name(),
             "; the shm backend needs all ranks of a group on one host");
  const std::string path = base::cat("/proc/", pid, "/fd/", fd);
  UniqueFd opened(LS_SYSCALL(::open(path.c_str(), O_RDWR | O_CLOEXEC), "opening shared memory of process ", pid,
                             " on this host (", path,
                             "); ranks that share memory must run as one user and see each other's process ids"));
  SharedMemory memory(std::move(opened));
  LS_REQUIRE(memory.inode_ == inode, "shared memory of process ", pid,
             " is gone: another file has taken its place; all ranks must be of one job");
  return memory;
}

SharedMemory SharedMemory::duplicate() const {
  return SharedMemory(UniqueFd(LS_SYSCALL(::fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0), "duplicating a descriptor")));
}

void SharedMemory::reserve(std::size_t offset, std::size_t nbytes) const {
  if (nbytes == 0) return;
  LS_SYSCALL(::fallocate(fd_.get(), 0, static_cast<off_t>(offset), static_cast<off_t>(nbytes)), "reserving ", nbytes,
             " bytes of shared memory");
}

void SharedMemory::release(std::size_t offset, std::size_t nbytes) const noexcept {
  if (nbytes == 0) return;
  // Best effort: at worst the pages stay until the group ends.
  (void)::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                    static_cast<off_t>(nbytes));
}

std::shared_ptr<std::byte> SharedMemory::map(std::size_t offset, std::size_t nbytes) const {
  LS_CHECK(offset % page_size() == 0 && nbytes > 0, "offset ", offset, ", ", nbytes, " bytes");
  return mappings().get({inode_, offset, nbytes}, fd_.get());
}

}  // namespace lockstep::io
