#include "lockstep/core/backend/backend.h"

#include "lockstep/core/base/check.h"

namespace lockstep {

std::string_view name_of(OpKind kind) noexcept {
  switch (kind) {
    case OpKind::kBarrier: return "barrier";
    case OpKind::kBroadcast: return "broadcast";
    case OpKind::kAllReduce: return "all_reduce";
    case OpKind::kReduceScatter: return "reduce_scatter";
    case OpKind::kAllGather: return "all_gather";
    case OpKind::kAllocate: return "allocate";
  }
  return "?";
}

std::string describe(const Collective& collective) {
  std::string text = base::cat(name_of(collective.kind), " #", collective.sequence);
  if (collective.kind == OpKind::kBarrier) return text;
  if (collective.kind == OpKind::kAllocate) return base::cat(text, " (", collective.count, " bytes)");
  text += base::cat(" (", collective.count, " ", name_of(collective.dtype));
  if (collective.kind == OpKind::kBroadcast) {
    text += base::cat(", root ", collective.root);
  } else if (collective.kind != OpKind::kAllGather) {
    text += base::cat(", ", name_of(collective.op));
  }
  if (!collective.label.empty()) text += base::cat(", ", collective.label);
  return text + ")";
}

}  // namespace lockstep
