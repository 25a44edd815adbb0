#pragma once
// A group's shared segment: how its ranks find it, what they know of each other, and the memory they hand out.

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/backend/shm/layout.h"
#include "lockstep/core/backend/shm/waiting.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/io/fd.h"
#include "lockstep/core/io/shared_memory.h"
#include "lockstep/core/store/store.h"

namespace lockstep::shm {

/// Where a buffer lies in memory that the group allocated; alike in meaning on every rank. One word, so that input and
/// output of a call travel in the cache line that announces it.
struct SharedAddress {
  std::uint64_t allocation : 24 = 0;  ///< 1 + index of the allocation; 0: not in shared memory
  std::uint64_t offset : 40 = 0;      ///< bytes from the start of the owning rank's part
};
inline constexpr std::size_t kMaxAllocations = (std::size_t{1} << 24) - 1;      ///< ever made by a group
inline constexpr std::size_t kMaxAllocationBytes = (std::size_t{1} << 40) - 1;  ///< of a rank's part of one

/// Thread safety: as Backend: one thread at a time, but dead() and the words in the segment.
class Segment {
 public:
  /// Rank 0 makes the segment and publishes its handle under `name` in `store`; all map it and wait for each other.
  /// Throws TimeoutError that names the ranks that never arrived, UsageError where a rank runs on another host.
  Segment(Store& store, const Meeting& meeting);
  /// Marks this rank as gone, so that a peer that still waits for it learns so.
  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  int rank() const noexcept { return rank_; }
  int world_size() const noexcept { return world_size_; }
  Header& header() const noexcept { return *reinterpret_cast<Header*>(base_.get()); }
  RankBlock& block(int rank) const noexcept { return blocks_[rank]; }
  RankBlock& own() const noexcept { return blocks_[rank_]; }
  Arrival& arrival(int rank, std::uint64_t tick) const noexcept { return blocks_[rank].arrivals[tick % kArrivals]; }
  /// The input half of a rank's staging slot for a tick; the result half follows at kSegmentBytes.
  std::byte* slot(int rank, std::uint64_t tick) const noexcept {
    return staging_ + static_cast<std::size_t>(rank) * kStagingBytes + tick % kSlots * kSlotBytes;
  }
  /// Gives this rank's slot of a tick its pages, the first time; before anything is written to it.
  void require_slot(std::uint64_t tick);
  /// Messages from one rank to another: how far they are, and their bytes.
  Channel& channel(int from, int to) const noexcept { return channels_[from * world_size_ + to]; }
  std::byte* message_ring(int from, int to) const noexcept {
    return rings_ + static_cast<std::size_t>(from * world_size_ + to) * kRingBytes;
  }
  /// As require_slot, for the ring of messages from this rank.
  void require_ring(int to);
  const Constants& constants() const noexcept { return header().constants; }
  const std::vector<RankCpus>& cpus() const noexcept { return cpus_; }

  /// True when a peer's process has ended, or it has left the group.
  bool gone(int rank) const;
  /// True when a peer has left the group in order.
  bool left(int rank) const noexcept { return block(rank).ready.load(std::memory_order_acquire) == 2; }

  /// This rank's pages of an allocation that all ranks make in the same order; to be called before its barrier.
  /// Throws UsageError beyond kMaxAllocations and kMaxAllocationBytes.
  void reserve(std::size_t nbytes);
  /// After that barrier: maps everyone's part and returns this rank's.
  BackendMemory map_reserved();
  /// Where `data` lies, if [data, data + nbytes) is inside of one live allocation of this rank.
  SharedAddress locate(const void* data, std::size_t nbytes) const noexcept;
  /// False of an allocation that a peer has through already, and this rank not yet; true of one freed since.
  bool has_mapped(SharedAddress address) const noexcept { return address.allocation <= mappings_.size(); }
  /// A rank's buffer, as mapped here; null where this rank does not hold that allocation (any more).
  std::byte* resolve(int rank, SharedAddress address) const noexcept;

 private:
  struct Allocation;
  struct Mapping;
  /// Where the parts of an allocation lie in the segment's file.
  struct Reserved {
    std::size_t begin = 0;
    std::size_t stride = 0;  ///< from one rank's part to the next
    std::size_t nbytes = 0;  ///< of each part
    std::size_t part(int rank) const noexcept { return begin + stride * static_cast<std::size_t>(rank); }
  };

  void create(Store& store, const std::string& name);
  void attach(Store& store, const Meeting& meeting);
  void announce();
  void agree_on_constants(const Meeting& meeting);
  void wait_for_all(const Meeting& meeting);
  void open_pidfds();

  int rank_;
  int world_size_;
  Layout layout_;
  std::unique_ptr<io::SharedMemory> memory_;
  std::shared_ptr<std::byte> base_;
  RankBlock* blocks_ = nullptr;
  Channel* channels_ = nullptr;
  std::byte* staging_ = nullptr;
  std::byte* rings_ = nullptr;
  std::array<bool, kSlots> has_slot_{};
  std::vector<bool> has_ring_;
  std::vector<io::UniqueFd> pidfds_;  // Empty for ranks of this process.
  std::vector<RankCpus> cpus_;
  std::vector<std::shared_ptr<Mapping>> mappings_;  // In the order of allocation, alike on all ranks.
  // Offsets are never reused: they must not depend on when a rank frees.
  std::size_t next_offset_;
  Reserved reserved_;
};

}  // namespace lockstep::shm
