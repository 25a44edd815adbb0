#include "lockstep/core/backend/wire/header.h"

#include <tuple>

namespace lockstep::wire {

Header header_of(const Collective& collective) {
  Header header;
  header.sequence = collective.sequence;
  header.count = collective.count;
  header.root = collective.root;
  header.kind = static_cast<std::uint8_t>(collective.kind);
  header.dtype = static_cast<std::uint8_t>(collective.dtype);
  header.op = static_cast<std::uint8_t>(collective.op);
  header.unequal = collective.counts.empty() ? 0 : 1;
  if (collective.kind == OpKind::kAllToAll && header.unequal != 0) {
    header.count = 0;  // Each rank's own.
  } else {
    // FNV-1a over the parts.
    for (const std::size_t count : collective.counts) header.parts = (header.parts ^ count) * 0x100000001b3ULL + 1;
  }
  return header;
}

bool agree(const Header& mine, const Header& theirs) noexcept {
  const auto what = [](const Header& header) {
    return std::make_tuple(header.sequence, header.count, header.parts, header.root, header.kind, header.dtype,
                           header.op, header.unequal);
  };
  return what(mine) == what(theirs);
}

Collective call_of(const Header& header) {
  Collective collective;
  collective.kind = static_cast<OpKind>(header.kind);
  collective.dtype = static_cast<DType>(header.dtype);
  collective.op = static_cast<ReduceOp>(header.op);
  collective.root = header.root;
  collective.count = header.count;
  collective.sequence = header.sequence;
  return collective;
}

}  // namespace lockstep::wire
