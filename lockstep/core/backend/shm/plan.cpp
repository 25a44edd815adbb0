#include "lockstep/core/backend/shm/plan.h"

#include <algorithm>

#include "lockstep/core/backend/shm/layout.h"

namespace lockstep::shm {
namespace {

/// Bytes that one rank puts where others can read them when it stages all it has.
std::size_t staged_bytes(const Collective& collective, std::size_t world) {
  const std::size_t nbytes = collective.count * size_of(collective.dtype);
  switch (collective.kind) {
    case OpKind::kBarrier:
    case OpKind::kAllocate: return 0;  // Its count is a request, nothing that moves.
    case OpKind::kReduceScatter: return nbytes * world;
    case OpKind::kBroadcast:
    case OpKind::kAllReduce:
    case OpKind::kAllGather: return nbytes;
  }
  return 0;
}

bool can_go_direct(OpKind kind, MemoryKind memory) {
  switch (kind) {
    case OpKind::kAllReduce: return memory.input_shared && memory.output_shared;  // peers read mine and write mine
    case OpKind::kBroadcast: return memory.output_shared;
    case OpKind::kReduceScatter:
    case OpKind::kAllGather: return memory.input_shared;  // peers read mine; I write my own output
    case OpKind::kBarrier:
    case OpKind::kAllocate: return false;
  }
  return false;
}

/// Elements of a piece: all ranks' parts of a piece together fill a slot's input half, and parts are whole cache lines.
std::size_t piece_of(const Collective& collective, std::size_t world) {
  const std::size_t line = 64 / size_of(collective.dtype);
  const std::size_t elements = kSegmentBytes / size_of(collective.dtype);
  if (collective.kind == OpKind::kReduceScatter) return std::max(elements / world / line, std::size_t{1}) * line;
  return elements;
}

}  // namespace

const char* name_of(Path path) noexcept {
  switch (path) {
    case Path::kSync: return "sync";
    case Path::kInline: return "inline";
    case Path::kFlat: return "flat";
    case Path::kStaged: return "staged";
    case Path::kDirect: return "direct";
  }
  return "?";
}

Plan plan_for(const Collective& collective, int world_size, MemoryKind memory, const Tuning& tuning) {
  const auto world = static_cast<std::size_t>(world_size);
  const std::size_t nbytes = staged_bytes(collective, world);
  if (nbytes == 0) return {Path::kSync, 1, 0, false};
  if (nbytes <= kInlineBytes) return {Path::kInline, 1, 0, false};
  if (nbytes >= tuning.direct_min_bytes && can_go_direct(collective.kind, memory)) return {Path::kDirect, 1, 0, true};
  // Flat moves a rank's whole contribution to every peer: that stops paying the sooner, the more peers there are.
  const bool everyone_needs_all = collective.kind == OpKind::kAllGather || collective.kind == OpKind::kBroadcast;
  const std::size_t flat_max = everyone_needs_all ? 2 * tuning.flat_max_bytes : tuning.flat_max_bytes * 2 / world;
  if (nbytes <= std::min(flat_max, kSegmentBytes)) return {Path::kFlat, 1, 0, false};
  const std::size_t piece = piece_of(collective, world);
  const std::uint64_t ticks = (collective.count + piece - 1) / piece;
  return {Path::kStaged, ticks, piece, collective.kind == OpKind::kAllReduce};
}

std::uint64_t signature_of(const Collective& collective, Path path, std::uint64_t index) noexcept {
  return static_cast<std::uint64_t>(collective.kind) | static_cast<std::uint64_t>(collective.dtype) << 8 |
         static_cast<std::uint64_t>(collective.op) << 16 | static_cast<std::uint64_t>(path) << 24 |
         static_cast<std::uint64_t>(static_cast<std::uint16_t>(collective.root)) << 32 | (index & 0xffff) << 48;
}

Path path_of(std::uint64_t signature) noexcept { return static_cast<Path>(signature >> 24 & 0xff); }

Collective from_signature(std::uint64_t signature, std::uint64_t count, std::uint64_t sequence) noexcept {
  Collective collective;
  collective.kind = static_cast<OpKind>(signature & 0xff);
  collective.dtype = static_cast<DType>(signature >> 8 & 0xff);
  collective.op = static_cast<ReduceOp>(signature >> 16 & 0xff);
  collective.root = static_cast<int>(signature >> 32 & 0xffff);
  collective.count = count;
  collective.sequence = sequence;
  return collective;
}

}  // namespace lockstep::shm
