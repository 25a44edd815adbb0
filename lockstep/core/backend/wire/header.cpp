#include "lockstep/core/backend/wire/header.h"

#include <tuple>

#include "lockstep/core/base/check.h"

namespace lockstep::wire {
namespace {

auto what_ranks_share(const Header& header) noexcept {
  return std::make_tuple(header.sequence, header.count, header.parts, header.root, header.kind, header.dtype, header.op,
                         header.unequal, header.origin);
}

}  // namespace

Header header_of(const Collective& collective) {
  Header header;
  header.sequence = collective.sequence;
  header.count = collective.count;
  header.root = collective.root;
  header.kind = static_cast<std::uint8_t>(collective.kind);
  header.dtype = static_cast<std::uint8_t>(collective.dtype);
  header.op = static_cast<std::uint8_t>(collective.op);
  header.unequal = collective.counts.empty() ? 0 : 1;
  header.origin = collective.origin;
  if (collective.kind == OpKind::kAllToAll && header.unequal != 0) {
    header.count = 0;  // Each rank's own.
  } else {
    // FNV-1a over the parts.
    for (const std::size_t count : collective.counts) header.parts = (header.parts ^ count) * 0x100000001b3ULL + 1;
  }
  return header;
}

bool agree(const Header& mine, const Header& theirs) noexcept {
  return what_ranks_share(mine) == what_ranks_share(theirs);
}

std::uint64_t digest_of(const Header& header) noexcept {
  std::uint64_t digest = 0;
  const auto add = [&digest](auto... values) {
    ((digest = (digest ^ static_cast<std::uint64_t>(values)) * 0x9E3779B97F4A7C15ULL, digest ^= digest >> 29), ...);
  };
  std::apply(add, what_ranks_share(header));
  return digest;
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

std::string disagreement(const Header& mine, const std::string& call, int rank, const Header& theirs, int peer) {
  std::string text = base::cat("rank ", rank, " calls ", call, ", rank ", peer, " calls ", describe(call_of(theirs)));
  if (theirs.unequal != 0) text += " in unequal parts";
  if (theirs.parts != mine.parts) text += "; all ranks must pass the same counts";
  return text;
}

}  // namespace lockstep::wire
