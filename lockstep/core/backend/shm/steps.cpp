// The five paths, as bytes.
//
//   inline, flat   post: my contribution -> arrival line or slot      work: combine or copy everyone's into my output
//   staged         post: the parts of a piece that peers reduce -> slot
//                  work: reduce my chunk of the piece from all slots (all_reduce: also into my slot's second half)
//                  finish (all_reduce): copy the peers' chunks from their slots' second halves
//   direct         post: nothing but addresses
//                  work: reduce my chunk straight from all inputs, push it straight into all outputs ("two hand-offs
//                  whatever the size"); all_gather pulls; broadcast: every rank copies its chunk from the root to all
//
// Reductions take their sources in rank order, so that all ranks hold equal bits whoever did the sum.

#include "lockstep/core/backend/shm/steps.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <vector>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/partition.h"
#include "lockstep/core/kernels/kernels.h"

namespace lockstep::shm {
namespace {

/// Sources or destinations of a reduction, one a rank; on the stack for the usual group sizes.
template <typename Pointer>
class PerRank {
 public:
  explicit PerRank(int size) : size_(static_cast<std::size_t>(size)) {
    if (size_ > inline_.size()) heap_.resize(size_);
  }
  Pointer& operator[](int rank) { return data()[rank]; }
  std::span<const Pointer> view() { return {data(), size_}; }

 private:
  Pointer* data() { return size_ > inline_.size() ? heap_.data() : inline_.data(); }

  std::size_t size_;
  std::array<Pointer, 16> inline_;
  std::vector<Pointer> heap_;
};

/// The addresses that a direct operation posts.
struct DirectAddresses {
  SharedAddress input;
  SharedAddress output;
};
static_assert(sizeof(DirectAddresses) <= kInlineBytes);

struct Call {
  Call(const Segment& s, const Operation& o, std::uint64_t i, std::uint64_t t)
      : segment(s),
        collective(o.collective),
        plan(o.plan),
        rank(s.rank()),
        world(s.world_size()),
        width(size_of(o.collective.dtype)),
        piece_begin(o.plan.path == Path::kStaged ? i * o.plan.piece : 0),
        piece_count(o.plan.path == Path::kStaged ? std::min(o.plan.piece, o.collective.count - piece_begin)
                                                 : o.collective.count),
        tick(t) {}

  const std::byte* input(std::size_t element) const {
    return static_cast<const std::byte*>(collective.input) + element * width;
  }
  std::byte* output(std::size_t element) const { return static_cast<std::byte*>(collective.output) + element * width; }
  /// Where a rank's contribution to this tick can be read: its slot, or its arrival line.
  std::byte* staged(int of) const {
    return plan.path == Path::kInline ? segment.arrival(of, tick).payload : segment.slot(of, tick);
  }
  std::byte* result(int of) const { return segment.slot(of, tick) + kSegmentBytes; }
  /// The elements of `count` that a rank reduces; whole cache lines.
  Range chunk(std::size_t count, int of) const {
    return partition(count, static_cast<std::size_t>(world), static_cast<std::size_t>(of), 64 / width);
  }
  void reduce(std::span<const void* const> sources, std::span<void* const> destinations, std::size_t count) const {
    kernels::reduce(sources, destinations, count, collective.dtype, collective.op, world);
  }
  DirectAddresses addresses(int of) const {
    DirectAddresses addresses;
    std::memcpy(&addresses, segment.arrival(of, tick).payload, sizeof addresses);
    return addresses;
  }
  std::byte* resolve(int of, SharedAddress address) const {
    std::byte* const found = segment.resolve(of, address);
    LS_REQUIRE(found != nullptr, describe(collective), ": rank ", of,
               " uses backend memory that this rank has freed; keep an allocation until all ranks are done with it");
    return found;
  }

  const Segment& segment;
  const Collective& collective;
  const Plan& plan;
  int rank;
  int world;
  std::size_t width;  ///< bytes of an element
  std::size_t piece_begin;
  std::size_t piece_count;
  std::uint64_t tick;
};

void copy_bytes(void* destination, const void* source, std::size_t nbytes) {
  if (nbytes != 0 && destination != source) kernels::copy(destination, source, nbytes);
}

// ---- post ----

void post_all_reduce(const Call& call) {
  if (call.plan.path != Path::kStaged) {
    return copy_bytes(call.staged(call.rank), call.input(0), call.piece_count * call.width);
  }
  for (int peer = 0; peer < call.world; ++peer) {
    const Range chunk = call.chunk(call.piece_count, peer);
    if (peer == call.rank) continue;
    copy_bytes(call.staged(call.rank) + chunk.begin * call.width, call.input(call.piece_begin + chunk.begin),
               chunk.size() * call.width);
  }
}

void post_reduce_scatter(const Call& call) {
  // Part q of a slot is what rank q reduces; parts lie plan.piece elements apart (count, where there is one piece).
  const std::size_t stride = call.plan.path == Path::kStaged ? call.plan.piece : call.collective.count;
  for (int peer = 0; peer < call.world; ++peer) {
    if (peer == call.rank) continue;
    const auto index = static_cast<std::size_t>(peer);
    copy_bytes(call.staged(call.rank) + index * stride * call.width,
               call.input(index * call.collective.count + call.piece_begin), call.piece_count * call.width);
  }
}

// ---- work ----

void work_all_reduce(const Call& call) {
  PerRank<const void*> sources(call.world);
  if (call.plan.path != Path::kStaged) {
    for (int peer = 0; peer < call.world; ++peer) {
      sources[peer] = peer == call.rank ? call.input(0) : call.staged(peer);
    }
    void* const destination = call.output(0);
    return call.reduce(sources.view(), {&destination, 1}, call.piece_count);
  }
  const Range chunk = call.chunk(call.piece_count, call.rank);
  for (int peer = 0; peer < call.world; ++peer) {
    sources[peer] =
        peer == call.rank ? call.input(call.piece_begin + chunk.begin) : call.staged(peer) + chunk.begin * call.width;
  }
  const std::array<void*, 2> destinations = {call.result(call.rank), call.output(call.piece_begin + chunk.begin)};
  call.reduce(sources.view(), destinations, chunk.size());
}

void work_reduce_scatter(const Call& call) {
  const auto own = static_cast<std::size_t>(call.rank);
  const std::size_t stride = call.plan.path == Path::kStaged ? call.plan.piece : call.collective.count;
  PerRank<const void*> sources(call.world);
  for (int peer = 0; peer < call.world; ++peer) {
    sources[peer] = peer == call.rank ? call.input(own * call.collective.count + call.piece_begin)
                                      : call.staged(peer) + own * stride * call.width;
  }
  void* const destination = call.output(call.piece_begin);
  call.reduce(sources.view(), {&destination, 1}, call.piece_count);
}

void work_all_gather(const Call& call) {
  for (int peer = 0; peer < call.world; ++peer) {
    const std::byte* const source = peer == call.rank ? call.input(call.piece_begin) : call.staged(peer);
    copy_bytes(call.output(static_cast<std::size_t>(peer) * call.collective.count + call.piece_begin), source,
               call.piece_count * call.width);
  }
}

// ---- work, straight between the ranks' buffers ----

void work_direct_all_reduce(const Call& call) {
  const Range chunk = call.chunk(call.collective.count, call.rank);
  PerRank<const void*> sources(call.world);
  PerRank<void*> destinations(call.world);
  for (int peer = 0; peer < call.world; ++peer) {
    const DirectAddresses at = call.addresses(peer);
    sources[peer] = call.resolve(peer, at.input) + chunk.begin * call.width;
    destinations[peer] = call.resolve(peer, at.output) + chunk.begin * call.width;
  }
  call.reduce(sources.view(), destinations.view(), chunk.size());
}

void work_direct_reduce_scatter(const Call& call) {
  PerRank<const void*> sources(call.world);
  for (int peer = 0; peer < call.world; ++peer) {
    sources[peer] = call.resolve(peer, call.addresses(peer).input) +
                    static_cast<std::size_t>(call.rank) * call.collective.count * call.width;
  }
  void* const destination = call.collective.output;
  call.reduce(sources.view(), {&destination, 1}, call.collective.count);
}

void work_direct_all_gather(const Call& call) {
  const std::size_t nbytes = call.collective.count * call.width;
  // Each rank starts at its right-hand neighbour, so that no rank's memory is read by all at once.
  for (int step = 0; step < call.world; ++step) {
    const int peer = (call.rank + step) % call.world;
    copy_bytes(call.output(static_cast<std::size_t>(peer) * call.collective.count),
               call.resolve(peer, call.addresses(peer).input), nbytes);
  }
}

void work_direct_broadcast(const Call& call) {
  const Range chunk = call.chunk(call.collective.count, call.rank);
  const int root = call.collective.root;
  const std::byte* const source = call.resolve(root, call.addresses(root).output) + chunk.begin * call.width;
  for (int peer = 0; peer < call.world; ++peer) {
    if (peer == root) continue;
    copy_bytes(call.resolve(peer, call.addresses(peer).output) + chunk.begin * call.width, source,
               chunk.size() * call.width);
  }
}

void work_direct(const Call& call) {
  switch (call.collective.kind) {
    case OpKind::kAllReduce: return work_direct_all_reduce(call);
    case OpKind::kReduceScatter: return work_direct_reduce_scatter(call);
    case OpKind::kAllGather: return work_direct_all_gather(call);
    case OpKind::kBroadcast: return work_direct_broadcast(call);
    case OpKind::kBarrier:
    case OpKind::kAllocate: return;
  }
}

}  // namespace

void post(const Segment& segment, const Operation& operation, std::uint64_t index, std::uint64_t tick) {
  if (operation.plan.path == Path::kSync) return;
  if (operation.plan.path == Path::kDirect) {
    const DirectAddresses addresses{operation.input, operation.output};
    std::memcpy(segment.arrival(segment.rank(), tick).payload, &addresses, sizeof addresses);
    return;
  }
  const Call call(segment, operation, index, tick);
  switch (call.collective.kind) {
    case OpKind::kAllReduce: return post_all_reduce(call);
    case OpKind::kReduceScatter: return post_reduce_scatter(call);
    case OpKind::kAllGather:
      return copy_bytes(call.staged(call.rank), call.input(call.piece_begin), call.piece_count * call.width);
    case OpKind::kBroadcast:
      if (call.rank != call.collective.root) return;
      return copy_bytes(call.staged(call.rank), call.output(call.piece_begin), call.piece_count * call.width);
    case OpKind::kBarrier:
    case OpKind::kAllocate: return;
  }
}

void work(const Segment& segment, const Operation& operation, std::uint64_t index, std::uint64_t tick) {
  if (operation.plan.path == Path::kSync) return;
  const Call call(segment, operation, index, tick);
  if (operation.plan.path == Path::kDirect) return work_direct(call);
  switch (call.collective.kind) {
    case OpKind::kAllReduce: return work_all_reduce(call);
    case OpKind::kReduceScatter: return work_reduce_scatter(call);
    case OpKind::kAllGather: return work_all_gather(call);
    case OpKind::kBroadcast:
      if (call.rank == call.collective.root) return;
      return copy_bytes(call.output(call.piece_begin), call.staged(call.collective.root),
                        call.piece_count * call.width);
    case OpKind::kBarrier:
    case OpKind::kAllocate: return;
  }
}

void finish(const Segment& segment, const Operation& operation, std::uint64_t index, std::uint64_t tick) {
  if (operation.plan.path != Path::kStaged || operation.collective.kind != OpKind::kAllReduce) return;
  const Call call(segment, operation, index, tick);
  for (int peer = 0; peer < call.world; ++peer) {
    if (peer == call.rank) continue;
    const Range chunk = call.chunk(call.piece_count, peer);
    copy_bytes(call.output(call.piece_begin + chunk.begin), call.result(peer), chunk.size() * call.width);
  }
}

}  // namespace lockstep::shm
