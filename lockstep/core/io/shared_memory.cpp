// Note [Huge pages]: what is summed, stepped and zeroed in each step is larger than the translation caches reach with
// pages of 4 KiB, and a virtual machine walks two sets of page tables for each miss. The system's switch for huge pages
// in shared memory is off nearly everywhere, but a process may ask for blocks of its own (MADV_COLLAPSE, Linux 6.1). A
// block needs one page to begin with; so this comes before the others are reserved, and makes that faster too, since
// the kernel then clears 2 MiB at once. It is a matter of speed alone: what fails is left as it is.

#include "lockstep/core/io/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
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

constexpr int kCollapse = 25;  ///< MADV_COLLAPSE, which older headers lack

bool back(int fd, std::size_t offset, std::size_t nbytes) noexcept {
  return ::fallocate(fd, 0, static_cast<off_t>(offset), static_cast<off_t>(nbytes)) == 0;
}

/// An address for a mapping of the range that lies in a block as its offset does, so that huge pages stay whole. Nobody
/// keeps it free: at worst another thread takes it, and the mapping comes to lie elsewhere.
void* place_for(std::size_t offset, std::size_t nbytes) noexcept {
  const std::size_t block = huge_page_size();
  if (block == 0 || nbytes < block) return nullptr;
  void* const room = ::mmap(nullptr, nbytes + block, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return nullptr;
  ::munmap(room, nbytes + block);
  const auto begin = reinterpret_cast<std::uintptr_t>(room);
  return static_cast<std::byte*>(room) + (block + offset % block - begin % block) % block;
}

void* map_shared(int fd, std::size_t offset, std::size_t nbytes, int flags) noexcept {
  return ::mmap(place_for(offset, nbytes), nbytes, PROT_READ | PROT_WRITE, MAP_SHARED | flags, fd,
                static_cast<off_t>(offset));
}

/// See Note [Huge pages].
void make_huge_pages(int fd, std::size_t offset, std::size_t nbytes) noexcept {
  const std::size_t block = huge_page_size();
  if (block == 0) return;
  const std::size_t begin = (offset + block - 1) / block * block;
  const std::size_t end = (offset + nbytes) / block * block;
  if (begin >= end) return;
  // The last page first, so that the file is long enough for all.
  if (!back(fd, end - page_size(), page_size())) return;
  for (std::size_t at = begin; at < end; at += block) {
    if (!back(fd, at, page_size())) return;
  }
  void* const mapped = map_shared(fd, begin, end - begin, 0);
  if (mapped == MAP_FAILED) return;
  (void)::madvise(mapped, end - begin, kCollapse);
  ::munmap(mapped, end - begin);
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
    void* const address = map_shared(fd, offset, nbytes, MAP_POPULATE);
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

std::size_t huge_page_size() noexcept {
  // Larger ones than 32 MiB (kernels with pages of 64 KiB) would not be filled.
  static const std::size_t size = [] {
    std::size_t nbytes = 0;
    std::ifstream("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size") >> nbytes;
    return nbytes <= std::size_t{32} << 20 ? nbytes : 0;
  }();
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
  make_huge_pages(fd_.get(), offset, nbytes);
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
