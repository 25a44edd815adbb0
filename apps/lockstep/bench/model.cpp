#include "apps/lockstep/bench/model.h"

#include <algorithm>
#include <cmath>

namespace lockstep::bench {
namespace {

/// Rates for `bytes`, between the measured sizes linear in the logarithm of the size.
RemoteRate rate_at(const MachineLimits& limits, double bytes) {
  const auto& table = limits.remote;
  const auto above = std::find_if(table.begin(), table.end(),
                                  [bytes](const RemoteRate& rate) { return static_cast<double>(rate.bytes) >= bytes; });
  if (above == table.begin()) return table.front();
  if (above == table.end()) return table.back();
  const RemoteRate& low = *(above - 1);
  const double span = std::log(static_cast<double>(above->bytes) / static_cast<double>(low.bytes));
  const double weight = std::log(bytes / static_cast<double>(low.bytes)) / span;
  return {above->bytes, low.add + weight * (above->add - low.add), low.write + weight * (above->write - low.write)};
}

/// us to move `bytes` at `gigabytes_per_second`.
double move_us(double bytes, double gigabytes_per_second) { return bytes / gigabytes_per_second * 1e-3; }

struct Terms {
  double handoff;      // L
  double flat_add;     // S(p-1)/A
  double flat_write;   // S/W
  double chunk_add;    // S(p-1)/p / A
  double chunk_write;  // S(p-1)/p / W, in user memory; 0 in backend memory
  double whole_read;   // S/A
};

double all_reduce_us(const Terms& t, MemoryKind memory) {
  if (memory == MemoryKind::kBackend) return std::min(t.handoff + t.flat_add, 2 * t.handoff + t.chunk_add);
  return std::min(t.handoff + t.flat_write + t.flat_add, 2 * t.handoff + t.chunk_write + 2 * t.chunk_add);
}

}  // namespace

std::optional<double> model_us(const SweepOptions& options, MemoryKind memory, std::size_t bytes,
                               const MachineLimits& limits) {
  if (!limits.measured || options.world_size < 2) return std::nullopt;
  const double whole = static_cast<double>(bytes);
  const double others = options.world_size - 1;
  const double chunk = whole * others / options.world_size;
  const RemoteRate at_whole = rate_at(limits, whole);
  const RemoteRate at_chunk = rate_at(limits, chunk);
  const double write = memory == MemoryKind::kUser ? move_us(chunk, at_chunk.write) : 0;
  const Terms terms{.handoff = limits.handoff_ns * 1e-3,
                    .flat_add = move_us(whole * others, at_whole.add),
                    .flat_write = move_us(whole, at_whole.write),
                    .chunk_add = move_us(chunk, at_chunk.add),
                    .chunk_write = write,
                    .whole_read = move_us(whole, at_whole.add)};
  double bound = terms.handoff;
  switch (options.op) {
    case OpKind::kAllReduce: bound = all_reduce_us(terms, memory); break;
    case OpKind::kReduceScatter:
    case OpKind::kAllGather: bound = terms.handoff + terms.chunk_add + terms.chunk_write; break;
    case OpKind::kBroadcast:
      bound = terms.handoff +
              (memory == MemoryKind::kUser ? std::max(terms.whole_read, terms.flat_write) : terms.whole_read);
      break;
    case OpKind::kBarrier:
    case OpKind::kAllocate: break;
  }
  // a += b moves three streams: two reads and a write.
  const double traffic = 2 * whole * options.world_size;
  const bool in_memory = limits.cache_bytes != 0 && traffic / 2 > static_cast<double>(limits.cache_bytes);
  if (options.op == OpKind::kAllReduce && in_memory) bound = std::max(bound, move_us(traffic, 3 * limits.add_both));
  return bound;
}

}  // namespace lockstep::bench
