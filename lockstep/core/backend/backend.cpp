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
    case OpKind::kReduce: return "reduce";
    case OpKind::kGather: return "gather";
    case OpKind::kScatter: return "scatter";
    case OpKind::kAllToAll: return "all_to_all";
    case OpKind::kSend: return "send";
    case OpKind::kRecv: return "recv";
  }
  return "?";
}

std::string describe(const Collective& collective) {
  std::string text = base::cat(name_of(collective.kind), " #", collective.sequence);
  if (collective.kind == OpKind::kBarrier) return text;
  if (collective.kind == OpKind::kAllocate) return base::cat(text, " (", collective.count, " bytes)");
  text += base::cat(" (", collective.count, " ", name_of(collective.dtype));
  if (!collective.counts.empty()) text += " in unequal parts";
  if (reduces(collective.kind)) text += base::cat(", ", name_of(collective.op));
  if (has_root(collective.kind)) text += base::cat(", root ", collective.root);
  if (!collective.label.empty()) text += base::cat(", ", collective.label);
  return text + ")";
}

std::string describe(const Message& message) {
  const bool sends = message.kind == OpKind::kSend;
  std::string text = base::cat(name_of(message.kind), " #", message.id, " (", message.count, " ",
                               name_of(message.dtype), ", tag ", message.tag, sends ? ", to " : ", from ");
  text += message.peer == kAnySource ? "any rank" : base::cat("rank ", message.peer);
  if (!message.label.empty()) text += base::cat(", ", message.label);
  return text + ")";
}

}  // namespace lockstep
