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

/// us. Writes are 0 in backend memory.
struct Terms {
  double handoff;       // L
  double flat_add;      // S(p-1)/A
  double whole_read;    // S/A
  double whole_write;   // S/W
  double others_add;    // S(p-1)/p / A
  double others_write;  // S(p-1)/p / W
  double own_read;      // S/p / A
  double own_write;     // S/p / W
};

double whole_buffers_us(const Terms& t, MemoryKind memory) {
  const double copies_in = memory == MemoryKind::kUser ? t.others_add : 0;
  return std::min(t.handoff + t.whole_write + t.flat_add, 2 * t.handoff + t.others_write + t.others_add + copies_in);
}

double broadcast_us(const Terms& t, MemoryKind memory) {
  const double root_alone = t.handoff + std::max(t.whole_read, t.whole_write);
  if (memory == MemoryKind::kUser) return root_alone;
  return std::min(root_alone, 2 * t.handoff + t.own_read);
}

double bound_us(OpKind op, const Terms& t, MemoryKind memory) {
  switch (op) {
    case OpKind::kAllReduce:
    case OpKind::kReduce: return whole_buffers_us(t, memory);
    case OpKind::kReduceScatter:
    case OpKind::kAllToAll: return t.handoff + t.others_add + t.others_write;
    case OpKind::kAllGather: return t.handoff + t.others_add + t.own_write;
    case OpKind::kGather: return t.handoff + std::max(t.others_add, t.own_write);
    case OpKind::kScatter: return t.handoff + std::max(t.own_read, t.others_write);
    case OpKind::kBroadcast: return broadcast_us(t, memory);
    case OpKind::kSend: return t.handoff + t.whole_read + t.whole_write;
    default: return t.handoff;
  }
}

}  // namespace

std::optional<double> model_us(const SweepOptions& options, MemoryKind memory, std::size_t bytes,
                               const MachineLimits& limits) {
  if (!limits.measured || options.world_size < 2 || options.world_size > limits.cpus) return std::nullopt;
  const double whole = static_cast<double>(bytes);
  const double own = whole / options.world_size;
  const double others = whole - own;
  const auto read = [&limits](double part) { return move_us(part, rate_at(limits, part).add); };
  const auto write = [&limits, memory](double part) {
    return memory == MemoryKind::kUser ? move_us(part, rate_at(limits, part).write) : 0;
  };
  const Terms terms{.handoff = limits.handoff_ns * 1e-3,
                    .flat_add = (options.world_size - 1) * read(whole),
                    .whole_read = read(whole),
                    .whole_write = write(whole),
                    .others_add = read(others),
                    .others_write = write(others),
                    .own_read = read(own),
                    .own_write = write(own)};
  double bound = bound_us(options.op, terms, memory);
  // a += b moves three streams: two reads and a write.
  const double traffic = 2 * whole * options.world_size;
  const bool in_memory = limits.cache_bytes != 0 && traffic / 2 > static_cast<double>(limits.cache_bytes);
  if (options.op == OpKind::kAllReduce && in_memory) bound = std::max(bound, move_us(traffic, 3 * limits.add_both));
  return bound;
}

}  // namespace lockstep::bench
