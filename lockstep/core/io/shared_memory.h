#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "lockstep/core/io/fd.h"

namespace lockstep::io {

/// Memory that several processes of one host map: an anonymous file (memfd), reached by peers through /proc.
///
/// Nothing has a name in a file system, so nothing can be left in /dev/shm, whichever way a process ends, and the
/// small /dev/shm of containers is no limit. The kernel frees the pages with the last descriptor and mapping.
/// Peers must run under the same user and see each other's process ids.
///
/// Thread safety: const functions from any thread.
class SharedMemory {
 public:
  /// A new, empty file; `label` shows up in /proc/<pid>/maps.
  static SharedMemory create(const std::string& label);
  /// Opens what `handle()` of the creator describes. Throws UsageError where the creator runs on another host, and
  /// SystemError where its descriptor can't be opened; both say what the ranks need to share memory.
  static SharedMemory attach(const std::string& handle);

  /// A line that a process of the same host can attach() to, while the creator lives.
  std::string handle() const;

  /// A second owner of the same file.
  SharedMemory duplicate() const;

  /// Backs [offset, offset + nbytes) with zeroed pages now, so that a lack of memory is a SystemError here and no
  /// SIGBUS later. Grows the file. Blocks of huge_page_size() that lie inside, and were never reserved, become huge
  /// pages where the kernel has them to give.
  void reserve(std::size_t offset, std::size_t nbytes) const;
  /// Gives the pages of the range back to the kernel; they read as zero afterwards. Never throws.
  void release(std::size_t offset, std::size_t nbytes) const noexcept;

  /// Maps a range that was reserved (page-aligned offset), in such a place that huge pages stay whole. Ranks that are
  /// threads of one process get one and the same mapping, so that a race detector sees that they share it. Unmapped
  /// with the last owner.
  std::shared_ptr<std::byte> map(std::size_t offset, std::size_t nbytes) const;

 private:
  SharedMemory(UniqueFd fd);

  UniqueFd fd_;
  std::uint64_t inode_;
};

/// Bytes of a page.
std::size_t page_size() noexcept;
/// Bytes of a huge page of shared memory; 0 where the kernel has none.
std::size_t huge_page_size() noexcept;

}  // namespace lockstep::io
