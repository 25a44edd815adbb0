#include "lockstep/core/backend/wire/plan.h"

#include <algorithm>

#include "lockstep/core/base/partition.h"

namespace lockstep::wire {
namespace {

/// Elements of what the operation cuts into pieces: the buffer, or the largest of the parts.
std::size_t length_of(const Collective& collective) {
  if (collective.counts.empty()) return collective.count;
  return *std::ranges::max_element(collective.counts);
}

/// The largest span that one rank sends to another in the first exchange.
std::size_t largest_send(const Collective& collective) { return length_of(collective) * size_of(collective.dtype); }

/// Builds the exchanges of one piece.
class Builder {
 public:
  Builder(const View& view, const Plan& plan, std::uint64_t index)
      : call_(view.collective),
        view_(view),
        plan_(plan),
        index_(index),
        width_(size_of(view.collective.dtype)),
        world_(static_cast<std::size_t>(view.world_size)),
        me_(static_cast<std::size_t>(view.rank)),
        root_(static_cast<std::size_t>(view.collective.root)) {}

  Piece build() {
    piece_.first = empty();
    switch (call_.kind) {
      case OpKind::kAllReduce: all_reduce(); break;
      case OpKind::kReduce: reduce(); break;
      case OpKind::kReduceScatter: reduce_scatter(); break;
      case OpKind::kBroadcast: broadcast(); break;
      case OpKind::kAllGather: all_gather(); break;
      case OpKind::kGather: gather(); break;
      case OpKind::kScatter: scatter(); break;
      case OpKind::kAllToAll: all_to_all(); break;
      default: break;
    }
    return std::move(piece_);
  }

 private:
  Exchange empty() const { return {std::vector<Part>(world_), std::vector<Part>(world_)}; }

  /// The elements of a buffer or part of `count` that this piece is about.
  Range cut(std::size_t count) const {
    if (plan_.piece == 0) return {0, count};
    const std::size_t begin = std::min(static_cast<std::size_t>(index_) * plan_.piece, count);
    return {begin, std::min(begin + plan_.piece, count)};
  }
  Part part(Where where, std::size_t first, std::size_t count) const { return {where, first * width_, count * width_}; }
  std::size_t begin_of(Offsets offsets, std::size_t rank) const {
    return offsets.empty() ? rank * call_.count : offsets[rank];
  }
  std::size_t count_of(Offsets offsets, std::size_t rank) const {
    return offsets.empty() ? call_.count : offsets[rank + 1] - offsets[rank];
  }
  /// What rank `of` contributes or receives, in the buffer of everyone's parts.
  Part whole_part(Where where, std::size_t of) const {
    return part(where, begin_of(view_.offsets, of), count_of(view_.offsets, of));
  }

  /// Contributions of the others to `count` elements that are formed here go to scratch, one after the other.
  void receive_contributions(std::size_t count) {
    std::size_t at = 0;
    for (std::size_t from = 0; from < world_; ++from) {
      if (from == me_) continue;
      piece_.first.recvs[from] = part(Where::kScratch, at, count);
      at += count;
    }
  }
  /// The chunk of this piece that `rank` forms, as elements of the whole buffer.
  Range chunk(std::size_t rank) const {
    const Range whole = cut(call_.count);
    const Range own = partition(whole.size(), world_, rank, 64 / width_);
    return {whole.begin + own.begin, whole.begin + own.end};
  }
  Part chunk_part(Where where, std::size_t rank) const { return part(where, chunk(rank).begin, chunk(rank).size()); }
  /// Chunk r of the input to rank r; the sum of the own chunk to `result`.
  void sum_chunks(Part result) {
    for (std::size_t to = 0; to < world_; ++to) {
      if (to != me_) piece_.first.sends[to] = chunk_part(Where::kInput, to);
    }
    receive_contributions(chunk(me_).size());
    piece_.own = chunk_part(Where::kInput, me_);
    piece_.result = result;
  }

  void all_reduce() {
    if (plan_.algorithm == Algorithm::kTwoStep) {
      sum_chunks(chunk_part(Where::kOutput, me_));
      piece_.second = empty();
      for (std::size_t peer = 0; peer < world_; ++peer) {
        if (peer == me_) continue;
        piece_.second.sends[peer] = piece_.result;
        piece_.second.recvs[peer] = chunk_part(Where::kOutput, peer);
      }
      return;
    }
    const Range all = cut(call_.count);
    for (std::size_t to = 0; to < world_; ++to) {
      if (to != me_) piece_.first.sends[to] = part(Where::kInput, all.begin, all.size());
    }
    receive_contributions(all.size());
    piece_.own = part(Where::kInput, all.begin, all.size());
    piece_.result = part(Where::kOutput, all.begin, all.size());
  }

  void reduce() {
    if (plan_.algorithm == Algorithm::kTwoStep) {
      // Elsewhere than at root the sum of the chunk lies behind the contributions that it is made of.
      const std::size_t behind = (world_ - 1) * chunk(me_).size();
      sum_chunks(me_ == root_ ? chunk_part(Where::kOutput, me_) : part(Where::kScratch, behind, chunk(me_).size()));
      piece_.second = empty();
      if (me_ != root_) {
        piece_.second.sends[root_] = piece_.result;
        return;
      }
      for (std::size_t from = 0; from < world_; ++from) {
        if (from != me_) piece_.second.recvs[from] = chunk_part(Where::kOutput, from);
      }
      return;
    }
    const Range all = cut(call_.count);
    if (me_ != root_) {
      piece_.first.sends[root_] = part(Where::kInput, all.begin, all.size());
      return;
    }
    receive_contributions(all.size());
    piece_.own = part(Where::kInput, all.begin, all.size());
    piece_.result = part(Where::kOutput, all.begin, all.size());
  }

  void reduce_scatter() {
    for (std::size_t to = 0; to < world_; ++to) {
      if (to == me_) continue;
      const Range range = cut(count_of(view_.offsets, to));
      piece_.first.sends[to] = part(Where::kInput, begin_of(view_.offsets, to) + range.begin, range.size());
    }
    const Range own = cut(count_of(view_.offsets, me_));
    receive_contributions(own.size());
    piece_.own = part(Where::kInput, begin_of(view_.offsets, me_) + own.begin, own.size());
    piece_.result = part(Where::kOutput, own.begin, own.size());
  }

  void broadcast() {
    if (plan_.algorithm == Algorithm::kDirect) {
      const Part all = part(Where::kOutput, 0, call_.count);
      if (me_ != root_) {
        piece_.first.recvs[root_] = all;
        return;
      }
      for (std::size_t to = 0; to < world_; ++to) {
        if (to != me_) piece_.first.sends[to] = all;
      }
      return;
    }
    // The root keeps no chunk: the others pass theirs on to each other.
    const auto chunk_of = [this](std::size_t rank) {
      const Range whole = cut(call_.count);
      const std::size_t index = rank - (rank > root_ ? 1 : 0);
      const Range own = partition(whole.size(), world_ - 1, index, 64 / width_);
      return part(Where::kOutput, whole.begin + own.begin, own.size());
    };
    piece_.second = empty();
    for (std::size_t peer = 0; peer < world_; ++peer) {
      if (peer == me_ || peer == root_) continue;
      if (me_ == root_) {
        piece_.first.sends[peer] = chunk_of(peer);
      } else {
        piece_.second.sends[peer] = chunk_of(me_);
        piece_.second.recvs[peer] = chunk_of(peer);
      }
    }
    if (me_ != root_) piece_.first.recvs[root_] = chunk_of(me_);
  }

  void all_gather() {
    const Part own = part(Where::kInput, 0, count_of(view_.offsets, me_));
    for (std::size_t peer = 0; peer < world_; ++peer) {
      piece_.first.sends[peer] = own;
      piece_.first.recvs[peer] = whole_part(Where::kOutput, peer);
    }
  }

  void gather() {
    piece_.first.sends[root_] = part(Where::kInput, 0, call_.count);
    if (me_ != root_) return;
    for (std::size_t from = 0; from < world_; ++from) piece_.first.recvs[from] = whole_part(Where::kOutput, from);
  }

  void scatter() {
    piece_.first.recvs[root_] = part(Where::kOutput, 0, call_.count);
    if (me_ != root_) return;
    for (std::size_t to = 0; to < world_; ++to) piece_.first.sends[to] = whole_part(Where::kInput, to);
  }

  void all_to_all() {
    for (std::size_t peer = 0; peer < world_; ++peer) {
      piece_.first.sends[peer] = whole_part(Where::kInput, peer);
      piece_.first.recvs[peer] =
          part(Where::kOutput, begin_of(view_.recv_offsets, peer), count_of(view_.recv_offsets, peer));
    }
  }

  const Collective& call_;
  const View& view_;
  const Plan& plan_;
  std::uint64_t index_;
  std::size_t width_;
  std::size_t world_;
  std::size_t me_;
  std::size_t root_;
  Piece piece_;
};

}  // namespace

std::string_view name_of(Algorithm algorithm) noexcept {
  return algorithm == Algorithm::kDirect ? "direct" : "two_step";
}

double model_us(const Collective& collective, Algorithm algorithm, int world_size, const Constants& constants) {
  // Of the rank whose wire is the busiest.
  const auto nbytes = static_cast<double>(collective.count * size_of(collective.dtype));
  const double peers = world_size - 1;
  const bool one_way = collective.kind == OpKind::kReduce || collective.kind == OpKind::kBroadcast;
  if (algorithm == Algorithm::kDirect) return constants.latency_us + peers * nbytes / kWireBytesPerUs;
  const double bytes = one_way ? nbytes : 2 * peers / world_size * nbytes;
  return 2 * constants.latency_us + bytes / kWireBytesPerUs;
}

Plan plan_for(const Collective& collective, int world_size, const Constants& constants) {
  Plan plan;
  // What this rank sends in an unequal all_to_all says nothing of what it receives.
  if (collective.kind == OpKind::kAllToAll && !collective.counts.empty()) return plan;
  const std::size_t length = length_of(collective);
  if (length == 0 || collective.kind == OpKind::kAllocate) {
    plan.pieces = 0;
    return plan;
  }
  if (world_size == 1) return plan;
  const auto world = static_cast<std::size_t>(world_size);
  if (has_two_forms(collective.kind) && world_size > 2 &&
      model_us(collective, Algorithm::kTwoStep, world_size, constants) <
          model_us(collective, Algorithm::kDirect, world_size, constants)) {
    plan.algorithm = Algorithm::kTwoStep;
  }
  plan.rides_in_header = plan.algorithm == Algorithm::kDirect && largest_send(collective) <= kInlineBytes;
  const std::size_t width = size_of(collective.dtype);
  const bool two_step = plan.algorithm == Algorithm::kTwoStep;
  if (!reduces(collective.kind) && !two_step) return plan;
  // What is not overlapped is one piece, so it is small against the whole; but every message fills several packets.
  const std::size_t most = collective.kind == OpKind::kReduceScatter ? kPieceBytes / world : kPieceBytes;
  const std::size_t least = two_step ? world * (64u << 10) : (64u << 10);
  plan.piece = std::min(length, std::max(std::min(length * width / 32, most), least) / width);
  plan.pieces = (length + plan.piece - 1) / plan.piece;
  if (!reduces(collective.kind)) return plan;
  const std::size_t chunk = two_step ? partition(plan.piece, world, 0, 64 / width).size() : plan.piece;
  plan.scratch_nbytes = world * chunk * width;
  return plan;
}

Piece piece_of(const View& view, const Plan& plan, std::uint64_t index) { return Builder(view, plan, index).build(); }

}  // namespace lockstep::wire
