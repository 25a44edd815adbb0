#pragma once
// One operation in flight on this rank, and one tick of it as the stages see it.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "lockstep/core/backend/buffers.h"
#include "lockstep/core/backend/shm/layout.h"
#include "lockstep/core/backend/shm/plan.h"
#include "lockstep/core/backend/shm/segment.h"
#include "lockstep/core/base/partition.h"
#include "lockstep/core/kernels/kernels.h"

namespace lockstep::shm {

inline constexpr std::uint64_t kNoTick = ~std::uint64_t{0};

struct Operation {
  Collective collective;
  Plan plan;
  Extent extent;
  std::uint64_t signature = 0;         ///< of its first tick
  std::uint64_t first_tick = kNoTick;  ///< known when it is its turn to post
  std::uint64_t after = 0;             ///< may post once operations up to this sequence number are finished here
  SharedAddress input;                 ///< used by Path::kDirect, and where reads_there
  SharedAddress output;
  // Unequal forms: where each rank's part begins (elements), and the end; empty where parts are equal.
  std::vector<std::size_t> offsets;
  std::vector<std::size_t> recv_offsets;
  std::vector<bool> reads_there;  ///< of an open plan: the ranks whose input is read where it lies

  /// Of an operation whose plan is closed: it reads what peers call their own, or writes there.
  bool uses_peers_memory() const noexcept {
    return plan.path == Path::kDirect || (!reads_there.empty() && plan.awaits == Awaits::kEveryone);
  }
};

/// One pointer (or factor) a rank; on the stack for the usual group sizes.
template <typename Value>
class PerRank {
 public:
  explicit PerRank(int size) : size_(static_cast<std::size_t>(size)) {
    if (size_ > inline_.size()) heap_.resize(size_);
  }
  Value& operator[](int rank) { return data()[rank]; }
  std::span<const Value> view() { return {data(), size_}; }

 private:
  Value* data() { return size_ > inline_.size() ? heap_.data() : inline_.data(); }

  std::size_t size_;
  std::array<Value, 16> inline_;
  std::vector<Value> heap_;
};

/// What an operation on Path::kDirect posts.
struct DirectAddresses {
  SharedAddress input;
  SharedAddress output;
};
static_assert(offsetof(Arrival, payload) + sizeof(DirectAddresses) <= 64);  // One line tells all.

/// Tick `index` of an operation, which is the group's tick `tick`.
struct Call {
  Call(const Segment& s, const Operation& o, std::uint64_t i, std::uint64_t t)
      : segment(s),
        operation(o),
        collective(o.collective),
        plan(o.plan),
        rank(s.rank()),
        world(s.world_size()),
        width(size_of(o.collective.dtype)),
        index(i),
        tick(t) {}

  /// The elements of a part or buffer of `count` that this tick is about.
  Range piece(std::size_t count) const {
    if (plan.piece == 0) return {0, count};
    const std::size_t begin = std::min(static_cast<std::size_t>(index) * plan.piece, count);
    return {begin, begin + std::min(plan.piece, count - begin)};
  }
  /// Where a rank's part begins in the buffer that holds everyone's, and how many elements it has.
  std::size_t begin_of(int of) const {
    const auto part = static_cast<std::size_t>(of);
    return operation.offsets.empty() ? part * collective.count : operation.offsets[part];
  }
  std::size_t count_of(int of) const {
    const auto part = static_cast<std::size_t>(of);
    return operation.offsets.empty() ? collective.count : operation.offsets[part + 1] - operation.offsets[part];
  }
  /// Where a receiver's part of this tick lies in a slot that keeps parts apart.
  std::size_t slot_offset(int of) const {
    return (plan.piece == 0 ? begin_of(of) : static_cast<std::size_t>(of) * plan.piece) * width;
  }
  const std::byte* input(std::size_t element) const {
    return static_cast<const std::byte*>(collective.input) + element * width;
  }
  std::byte* output(std::size_t element) const { return static_cast<std::byte*>(collective.output) + element * width; }
  /// Where a rank's contribution to this tick can be read: its slot, or its arrival line.
  std::byte* staged(int of) const {
    return plan.path == Path::kInline ? segment.arrival(of, tick).payload : segment.slot(of, tick);
  }
  /// The second half of a slot: a rank's chunk of the result, or what it says beside its data.
  std::byte* second_half(int of) const { return segment.slot(of, tick) + kSegmentBytes; }
  /// The elements of `count` that a rank reduces; whole cache lines.
  Range chunk(std::size_t count, int of) const {
    return partition(count, static_cast<std::size_t>(world), static_cast<std::size_t>(of), 64 / width);
  }
  void reduce(std::span<const void* const> sources, std::span<void* const> destinations, std::size_t count) const;
  /// What a rank posted on Path::kDirect.
  DirectAddresses addresses(int of) const;
  /// Throws UsageError where this rank has freed that memory already.
  std::byte* resolve(int of, SharedAddress address) const;

  const Segment& segment;
  const Operation& operation;
  const Collective& collective;
  const Plan& plan;
  int rank;
  int world;
  std::size_t width;  ///< bytes of an element
  std::uint64_t index;
  std::uint64_t tick;
};

inline void copy_bytes(void* destination, const void* source, std::size_t nbytes) {
  if (nbytes != 0 && destination != source) kernels::copy(destination, source, nbytes);
}

}  // namespace lockstep::shm
