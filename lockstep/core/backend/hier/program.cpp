// The idea (Horovod's hierarchical all-reduce, NCCL's trees of nodes): what all ranks of a host need from outside comes
// in once, what they give goes out once, and all carriers of a host drive the wire at once, each with a shard. A buffer
// is cut into segments; of those that follow one another one is inside the host while another is on the wire.

#include "lockstep/core/backend/hier/program.h"

#include <algorithm>
#include <functional>

namespace lockstep::hier {
namespace {

using Where = Place::Where;

/// What the inputs of an average are multiplied by, so that sums between its steps fit where its result does: f16 ends
/// at 65504. A power of two, which rounds nothing that is not subnormal then.
double headroom(const Collective& call, int world_size) {
  double factor = 1;
  if (call.op != ReduceOp::kAvg || call.dtype != DType::kFloat16) return factor;
  while (factor * world_size > 1) factor /= 2;
  return factor;
}

class Builder {
 public:
  Builder(const Collective& call, const std::vector<std::size_t>& offsets, const Topology& topology)
      : call_(call),
        offsets_(offsets),
        topology_(topology),
        width_(size_of(call.dtype)),
        carriers_(static_cast<std::size_t>(topology.carriers())),
        segment_(carriers_ * kShardBytes / width_),
        headroom_(headroom(call, topology.world_size)) {}

  Program build() {
    switch (call_.kind) {
      case OpKind::kAllReduce: all_reduce(); break;
      case OpKind::kReduce: reduce(); break;
      case OpKind::kBroadcast: broadcast(); break;
      case OpKind::kReduceScatter: reduce_scatter(); break;
      case OpKind::kAllGather: all_gather(); break;
      case OpKind::kBarrier: barrier(); break;
      default: flat(); break;
    }
    return std::move(program_);
  }

 private:
  /// Some elements in a row.
  struct Segment {
    std::size_t begin;
    std::size_t size;
  };

  std::vector<Segment> segments_of(std::size_t begin, std::size_t count) const {
    std::vector<Segment> segments;
    for (std::size_t done = 0; done < count; done += segment_) {
      segments.push_back({begin + done, std::min(segment_, count - done)});
    }
    return segments;
  }
  Range shard(const Segment& segment, std::size_t carrier) const {
    return partition(segment.size, carriers_, carrier, 64 / width_);
  }
  Range own_shard(const Segment& segment) const {
    return shard(segment, static_cast<std::size_t>(topology_.local_rank()));
  }
  /// What each rank of this host has of a segment: the carriers their shards, the others nothing.
  std::vector<std::size_t> shards(const Segment& segment) const {
    std::vector<std::size_t> counts(static_cast<std::size_t>(topology_.local_size()));
    for (std::size_t k = 0; k < carriers_; ++k) counts[k] = shard(segment, k).size();
    return counts;
  }

  std::size_t begin_of(int rank) const {
    const auto at = static_cast<std::size_t>(rank);
    return offsets_.empty() ? at * call_.count : offsets_[at];
  }
  std::size_t count_of(int rank) const {
    const auto at = static_cast<std::size_t>(rank);
    return offsets_.empty() ? call_.count : offsets_[at + 1] - offsets_[at];
  }
  /// The parts of a host's ranks together, where they follow one another.
  Segment block_of(int host) const {
    const auto& ranks = topology_.ranks_of_host[static_cast<std::size_t>(host)];
    const std::size_t begin = begin_of(ranks.front());
    return {begin, begin_of(ranks.back()) + count_of(ranks.back()) - begin};
  }

  Place at(Where where, std::size_t element) const { return {where, element * width_}; }
  int add(Step step) {
    program_.steps.push_back(std::move(step));
    return static_cast<int>(program_.steps.size()) - 1;
  }

  /// Everyone's inputs on this host, summed: each carrier gets its shard at `output`.
  int add_inner_sum(const Segment& segment, Place input, Place output, int after) {
    // The factors are applied here; an average is divided where the sum is whole.
    const bool averages = call_.op == ReduceOp::kAvg;
    const ReduceOp sum = headroom_ < 1 ? ReduceOp::kPreMulSum : ReduceOp::kSum;
    const ReduceOp op = averages ? sum : call_.op;
    Step step{Engine::kInner, OpKind::kReduceScatter, op, 0, segment.size, shards(segment), input, output};
    step.after = {after, -1};
    step.factor = averages ? headroom_ : call_.factor;
    return add(std::move(step));
  }
  /// What the carriers have, their shards, for all.
  int add_inner_gather(const Segment& segment, Place input, Place output, int after) {
    Step step{Engine::kInner, OpKind::kAllGather, ReduceOp::kSum, 0, segment.size, shards(segment), input, output};
    step.after = {after, -1};
    step.behind_cross = true;
    return add(std::move(step));
  }
  /// Across hosts, on this carrier's shard, in place; returns `after` where this rank carries nothing.
  int add_cross(OpKind kind, int root_host, const Segment& segment, Place shard_place, int after) {
    const std::size_t count = topology_.is_carrier() ? own_shard(segment).size() : 0;
    if (count == 0) return after;
    const bool sums = call_.op == ReduceOp::kAvg || call_.op == ReduceOp::kPreMulSum;
    const ReduceOp op = sums ? ReduceOp::kSum : call_.op;
    const int crossed = add({Engine::kCross, kind, op, root_host, count, {}, shard_place, shard_place, {after, -1}});
    const bool has_result = kind == OpKind::kAllReduce || (kind == OpKind::kReduce && root_host == topology_.host());
    const double factor = 1.0 / (headroom_ * topology_.world_size);
    if (call_.op != ReduceOp::kAvg || !has_result || factor == 1) return crossed;
    Step scaling{Engine::kHere, OpKind::kAllReduce, ReduceOp::kAvg, 0, count, {}, shard_place, shard_place};
    scaling.after = {crossed, -1};
    scaling.factor = factor;
    return add(std::move(scaling));
  }
  int add_copy(Place input, Place output, std::size_t count, int after) {
    return add({Engine::kHere, OpKind::kBroadcast, ReduceOp::kSum, 0, count, {}, input, output, {after, -1}});
  }

  void all_reduce() {
    const auto segments = segments_of(0, call_.count);
    std::vector<int> crossed(segments.size());
    const auto shard_place = [&](const Segment& segment) {
      return at(Where::kOutput, segment.begin + (topology_.is_carrier() ? own_shard(segment).begin : 0));
    };
    pipeline(
        segments.size(),
        [&](std::size_t t) {
          const Segment& segment = segments[t];
          const int summed = add_inner_sum(segment, at(Where::kInput, segment.begin), shard_place(segment), -1);
          crossed[t] = add_cross(OpKind::kAllReduce, 0, segment, shard_place(segment), summed);
        },
        [&](std::size_t t) {
          const Segment& segment = segments[t];
          add_inner_gather(segment, shard_place(segment), at(Where::kOutput, segment.begin), crossed[t]);
        });
  }

  void reduce() {
    const int root_host = topology_.host_of_rank[static_cast<std::size_t>(call_.root)];
    const bool is_root = topology_.rank == call_.root;
    const auto segments = segments_of(0, call_.count);
    const Slots slots = make_slots(segments.size(), std::min(segment_, call_.count));
    std::vector<int> crossed(segments.size());
    std::vector<int> finished(segments.size(), -1);
    pipeline(
        segments.size(),
        [&](std::size_t t) {
          const Segment& segment = segments[t];
          const int summed =
              add_inner_sum(segment, at(Where::kInput, segment.begin), slots.shard(t), slots.free(t, finished));
          crossed[t] = add_cross(OpKind::kReduce, root_host, segment, slots.shard(t), summed);
        },
        [&](std::size_t t) {
          const Segment& segment = segments[t];
          finished[t] = crossed[t];
          if (topology_.host() != root_host) return;
          const Place whole = is_root ? at(Where::kOutput, segment.begin) : slots.whole(t);
          finished[t] = add_inner_gather(segment, slots.shard(t), whole, crossed[t]);
        });
  }

  void broadcast() {
    const int root_host = topology_.host_of_rank[static_cast<std::size_t>(call_.root)];
    const bool is_there = topology_.host() == root_host;
    const auto segments = segments_of(0, call_.count);
    std::vector<int> crossed(segments.size());
    pipeline(
        segments.size(),
        [&](std::size_t t) {
          const Segment& segment = segments[t];
          int known = -1;
          if (is_there) {
            const int local_root = topology_.local_rank_of[static_cast<std::size_t>(call_.root)];
            known = add({Engine::kInner,
                         OpKind::kBroadcast,
                         ReduceOp::kSum,
                         local_root,
                         segment.size,
                         {},
                         {},
                         at(Where::kOutput, segment.begin),
                         {-1, -1}});
          }
          crossed[t] = add_cross(OpKind::kBroadcast, root_host, segment, output_shard(segment), known);
        },
        [&](std::size_t t) {
          if (is_there) return;
          const Segment& segment = segments[t];
          add_inner_gather(segment, output_shard(segment), at(Where::kOutput, segment.begin), crossed[t]);
        });
  }
  Place output_shard(const Segment& segment) const {
    return at(Where::kOutput, segment.begin + (topology_.is_carrier() ? own_shard(segment).begin : 0));
  }

  /// The blocks of all hosts in segments; the hosts in turn, so that every host's wire has something to do.
  struct OfHost {
    int host;
    Segment segment;
  };
  std::vector<OfHost> segments_in_turn() const {
    std::vector<OfHost> all;
    bool more = true;
    for (std::size_t t = 0; more; ++t) {
      more = false;
      for (int host = 0; host < topology_.hosts(); ++host) {
        const Segment block = block_of(host);
        if (t * segment_ >= block.size) continue;
        all.push_back({host, {block.begin + t * segment_, std::min(segment_, block.size - t * segment_)}});
        more = true;
      }
    }
    return all;
  }

  void all_gather() {
    const Segment block = block_of(topology_.host());
    std::vector<std::size_t> counts;
    for (const int rank : topology_.local_ranks()) counts.push_back(count_of(rank));
    const int known = add({Engine::kInner,
                           OpKind::kAllGather,
                           ReduceOp::kSum,
                           0,
                           block.size,
                           counts,
                           at(Where::kInput, 0),
                           at(Where::kOutput, block.begin),
                           {-1, -1}});
    const auto all = segments_in_turn();
    std::vector<int> crossed(all.size());
    pipeline(
        all.size(),
        [&](std::size_t t) {
          const bool from_here = all[t].host == topology_.host();
          crossed[t] = add_cross(OpKind::kBroadcast, all[t].host, all[t].segment, output_shard(all[t].segment),
                                 from_here ? known : -1);
        },
        [&](std::size_t t) {
          const Segment& segment = all[t].segment;
          if (all[t].host == topology_.host()) return;
          add_inner_gather(segment, output_shard(segment), at(Where::kOutput, segment.begin), crossed[t]);
        });
  }

  void reduce_scatter() {
    const auto all = segments_in_turn();
    std::size_t largest = 0;
    for (const OfHost& each : all) largest = std::max(largest, each.segment.size);
    const Slots slots = make_slots(all.size(), largest);
    std::vector<int> crossed(all.size());
    std::vector<int> finished(all.size(), -1);
    pipeline(
        all.size(),
        [&](std::size_t t) {
          const Segment& segment = all[t].segment;
          const int summed =
              add_inner_sum(segment, at(Where::kInput, segment.begin), slots.shard(t), slots.free(t, finished));
          crossed[t] = add_cross(OpKind::kReduce, all[t].host, segment, slots.shard(t), summed);
        },
        [&](std::size_t t) {
          const Segment& segment = all[t].segment;
          finished[t] = crossed[t];
          if (all[t].host != topology_.host()) return;
          finished[t] = add_inner_gather(segment, slots.shard(t), slots.whole(t), crossed[t]);
          // Of the segment, what belongs to this rank.
          const std::size_t own = begin_of(topology_.rank);
          const std::size_t begin = std::max(own, segment.begin);
          const std::size_t end = std::min(own + count_of(topology_.rank), segment.begin + segment.size);
          if (begin >= end) return;
          Place from = slots.whole(t);
          from.offset += (begin - segment.begin) * width_;
          finished[t] = add_copy(from, at(Where::kOutput, begin - own), end - begin, finished[t]);
        });
  }

  int add_barrier(Engine engine, int after) {
    return add({engine, OpKind::kBarrier, ReduceOp::kSum, 0, 0, {}, {}, {}, {after, -1}});
  }
  void barrier() {
    int after = add_barrier(Engine::kInner, -1);
    if (topology_.is_carrier()) after = add_barrier(Engine::kCross, after);
    program_.steps[static_cast<std::size_t>(add_barrier(Engine::kInner, after))].behind_cross = true;
  }

  /// gather, scatter, all_to_all: every byte has one destination, and goes there. A rank that calls something else is
  /// in other engines, and waits there: so nobody may be left out of those.
  void flat() {
    add_barrier(Engine::kInner, -1);
    if (topology_.is_carrier()) add_barrier(Engine::kCross, -1);
    add({Engine::kFlat,
         call_.kind,
         call_.op,
         call_.root,
         call_.count,
         {},
         at(Where::kInput, 0),
         at(Where::kOutput, 0),
         {-1, -1}});
  }

  /// Temporary memory of the segments in flight, used in turn: a shard and a whole segment each.
  struct Slots {
    std::size_t shard_nbytes;
    std::size_t slot_nbytes;
    Place shard(std::size_t t) const { return {Where::kTemporary, t % (kSegmentsInFlight + 1) * slot_nbytes}; }
    Place whole(std::size_t t) const { return {Where::kTemporary, shard(t).offset + shard_nbytes}; }
    /// The step after which the slot is free.
    int free(std::size_t t, const std::vector<int>& finished) const {
      return t > kSegmentsInFlight ? finished[t - kSegmentsInFlight - 1] : -1;
    }
  };
  Slots make_slots(std::size_t segments, std::size_t largest) {
    const std::size_t shard_nbytes = partition(largest, carriers_, 0, 64 / width_).size() * width_;
    const Slots slots{shard_nbytes, shard_nbytes + largest * width_};
    program_.temporary_nbytes = std::min(segments, kSegmentsInFlight + 1) * slots.slot_nbytes;
    return slots;
  }

  /// begin(0) begin(1) .. begin(D), end(0), begin(D + 1), end(1) ...
  static void pipeline(std::size_t segments, const std::function<void(std::size_t)>& begin,
                       const std::function<void(std::size_t)>& end) {
    for (std::size_t t = 0; t < segments + kSegmentsInFlight; ++t) {
      if (t < segments) begin(t);
      if (t >= kSegmentsInFlight) end(t - kSegmentsInFlight);
    }
  }

  const Collective& call_;
  const std::vector<std::size_t>& offsets_;
  const Topology& topology_;
  std::size_t width_;
  std::size_t carriers_;
  std::size_t segment_;  ///< elements of a whole one
  double headroom_;
  Program program_;
};

}  // namespace

Program program_for(const Collective& collective, const std::vector<std::size_t>& offsets, const Topology& topology) {
  return Builder(collective, offsets, topology).build();
}

}  // namespace lockstep::hier
