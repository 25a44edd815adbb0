#include "lockstep/core/backend/shm/plan.h"

#include <algorithm>

#include "lockstep/core/backend/shm/layout.h"

namespace lockstep::shm {
namespace {

/// Parts kept apart in a slot, one for every receiver.
bool personalised(OpKind kind) {
  return kind == OpKind::kReduceScatter || kind == OpKind::kScatter || kind == OpKind::kAllToAll;
}

/// Elements of the largest part, where a rank has or gives parts; else of the buffer.
std::size_t largest_part(const Collective& collective) {
  if (collective.counts.empty()) return collective.count;
  return *std::max_element(collective.counts.begin(), collective.counts.end());
}

/// Elements that one rank puts where others can read them when it stages all it has.
std::size_t staged_count(const Collective& collective, std::size_t world) {
  switch (collective.kind) {
    case OpKind::kReduceScatter:
    case OpKind::kScatter:
    case OpKind::kAllToAll: return collective.counts.empty() ? collective.count * world : collective.count;
    case OpKind::kBroadcast:
    case OpKind::kAllReduce:
    case OpKind::kReduce:
    case OpKind::kGather: return collective.count;
    case OpKind::kAllGather: return largest_part(collective);
    case OpKind::kBarrier:
    case OpKind::kAllocate:  // Its count is a request, nothing that moves.
    case OpKind::kSend:
    case OpKind::kRecv: break;
  }
  return 0;
}

/// Only what every rank has can be told alike by every rank: a root's other buffer is looked at when all have arrived.
bool can_go_direct(OpKind kind, MemoryKind memory) {
  switch (kind) {
    case OpKind::kAllReduce: return memory.input_shared && memory.output_shared;  // peers read mine and write mine
    case OpKind::kBroadcast:
    case OpKind::kScatter: return memory.output_shared;
    case OpKind::kReduce:
    case OpKind::kGather:
    case OpKind::kReduceScatter:
    case OpKind::kAllGather:
    case OpKind::kAllToAll: return memory.input_shared;  // peers read mine; each writes its own output
    default: return false;
  }
}

/// Elements of a piece: all ranks' parts of a piece together fill a slot's input half, and parts are whole cache lines.
std::size_t piece_of(const Collective& collective, std::size_t world) {
  const std::size_t line = 64 / size_of(collective.dtype);
  const std::size_t elements = kSegmentBytes / size_of(collective.dtype);
  if (personalised(collective.kind)) return std::max(elements / world / line, std::size_t{1}) * line;
  return elements;
}

/// What the busiest rank reads of `whole` kilobytes that a rank stages.
double taken_kilobytes(OpKind kind, double whole, int world_size) {
  const double others = world_size - 1;
  switch (kind) {
    case OpKind::kBroadcast: return whole;
    case OpKind::kScatter: return whole / world_size;
    case OpKind::kReduceScatter:
    case OpKind::kAllToAll: return whole * others / world_size;
    default: return whole * others;
  }
}

bool combines_whole_buffers(OpKind kind) { return kind == OpKind::kAllReduce || kind == OpKind::kReduce; }

/// The plan of an operation that takes `path`.
Plan plan_on(Path path, const Collective& collective, int world_size) {
  Plan plan;
  plan.path = path;
  if (plan.path == Path::kDirect) plan.awaits = Awaits::kEveryone;
  if (plan.path != Path::kFlat && plan.path != Path::kStaged) return plan;
  plan.piece = piece_of(collective, static_cast<std::size_t>(world_size));
  plan.open = only_known_here(collective);
  if (!plan.open) plan.ticks = (largest_part(collective) + plan.piece - 1) / plan.piece;
  if (plan.path == Path::kStaged) {
    plan.awaits = collective.kind == OpKind::kReduce ? Awaits::kEveryoneAtRoot : Awaits::kEveryone;
  }
  return plan;
}

}  // namespace

bool only_known_here(const Collective& collective) noexcept {
  return collective.kind == OpKind::kAllToAll && !collective.counts.empty();
}

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

bool asks_for_memory(const Collective& collective, int world_size) noexcept {
  if (only_known_here(collective)) return true;
  const auto& counts = collective.counts;
  // A rank that has nothing to give may have no buffer, and could not say what memory it lies in.
  const bool gives_nothing = std::find(counts.begin(), counts.end(), std::size_t{0}) != counts.end();
  if (collective.kind == OpKind::kAllGather && gives_nothing) return false;
  return staged_count(collective, static_cast<std::size_t>(world_size)) * size_of(collective.dtype) >= kDirectMinBytes;
}

Costs costs_of(const Collective& collective, int world_size, MemoryKind memory, const Constants& constants) {
  const auto world = static_cast<std::size_t>(world_size);
  const double others = static_cast<double>(world_size - 1);
  const std::size_t nbytes = staged_count(collective, world) * size_of(collective.dtype);
  const double whole = static_cast<double>(nbytes) / 1024;
  const double share = whole * others / world_size;
  const double handoff = constants.handoff_ns;
  const double read = constants.read_ns_per_kb;
  const double write = constants.write_ns_per_kb;
  const bool halves = combines_whole_buffers(collective.kind);
  Costs costs;
  costs.fill(-1);
  const auto set = [&costs](Path path, double cost) { costs[static_cast<std::size_t>(path)] = cost; };
  if (only_known_here(collective)) {
    set(Path::kFlat, 2 * handoff);
    return costs;
  }
  if (nbytes == 0) {
    set(Path::kSync, handoff);
    return costs;
  }
  const double taken = taken_kilobytes(collective.kind, whole, world_size);
  const double copied = handoff + whole * write + taken * read;
  if (nbytes <= kInlineBytes) {
    set(Path::kInline, handoff);
    return costs;
  }
  // Of two that cost the same, large ones go staged: less of what others have written is needed at a time.
  if (!halves || nbytes <= kSegmentBytes) set(Path::kFlat, copied);
  // Each rank combines its chunk, which it stages as well, then everyone copies the results.
  if (halves) set(Path::kStaged, 2 * handoff + whole * write + 2 * share * read);
  if (asks_for_memory(collective, world_size) && can_go_direct(collective.kind, memory)) {
    set(Path::kDirect, 2 * handoff + (halves || collective.kind == OpKind::kBroadcast ? share : taken) * read);
  }
  return costs;
}

Plan plan_for(const Collective& collective, int world_size, MemoryKind memory, const Constants& constants) {
  if (!only_known_here(collective)) {
    // Where there is no choice the model need not be asked: its arithmetic is a good part of a small operation.
    const std::size_t nbytes =
        staged_count(collective, static_cast<std::size_t>(world_size)) * size_of(collective.dtype);
    if (nbytes <= kInlineBytes) return {nbytes == 0 ? Path::kSync : Path::kInline};
  }
  const Costs costs = costs_of(collective, world_size, memory, constants);
  std::size_t best = costs.size();
  for (std::size_t path = 0; path < costs.size(); ++path) {
    if (costs[path] >= 0 && (best == costs.size() || costs[path] < costs[best])) best = path;
  }
  return plan_on(static_cast<Path>(best), collective, world_size);
}

std::vector<PathEstimate> estimates_of(const Collective& collective, int world_size, bool backend_memory,
                                       const Constants& constants) {
  const MemoryKind memory{backend_memory, backend_memory};
  const Costs costs = costs_of(collective, world_size, memory, constants);
  const Path chosen = plan_for(collective, world_size, memory, constants).path;
  std::vector<PathEstimate> estimates;
  for (int i = 0; i < kPathCount; ++i) {
    const auto path = static_cast<Path>(i);
    const double ns = costs[static_cast<std::size_t>(i)];
    if (ns < 0) continue;
    estimates.push_back({name_of(path), ns / 1000, plan_on(path, collective, world_size).ticks, path == chosen});
  }
  return estimates;
}

std::uint64_t signature_of(const Collective& collective, Path path, std::uint64_t index) noexcept {
  // Unequal parts have no root: a digest of the parts takes its place.
  std::uint64_t root = static_cast<std::uint16_t>(collective.root);
  if (!collective.counts.empty()) {
    if (!only_known_here(collective)) {
      for (const std::size_t count : collective.counts) root = (root ^ count) * 0x9E3779B97F4A7C15ULL >> 7;
    }
    root = (root & 0x7fff) | 0x8000;
  }
  return static_cast<std::uint64_t>(collective.kind) | static_cast<std::uint64_t>(collective.dtype) << 8 |
         static_cast<std::uint64_t>(collective.op) << 16 | static_cast<std::uint64_t>(path) << 24 |
         (root & 0xffff) << 32 | ((index + collective.origin) & 0xffff) << 48;
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
