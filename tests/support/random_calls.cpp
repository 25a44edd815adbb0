// The operations of a random run, one by one: inputs, the call, and what must come of it.

#include <stdexcept>
#include <utility>

#include "tests/support/random_detail.h"

namespace lockstep::support {
namespace {

using lockstep::testing::factor_of;
using Kind = RandomKind;

std::size_t sum_of(const std::vector<std::size_t>& counts, std::size_t first, std::size_t n) {
  std::size_t sum = 0;
  for (std::size_t i = first; i < first + n; ++i) sum += counts[i];
  return sum;
}

}  // namespace

void RandomOperations::start(const Call& call, Flight& flight) {
  Communicator& group = *flight.group;
  const std::size_t p = flight.world();
  const auto me = static_cast<std::size_t>(flight.rank());
  const std::size_t n = call.count;
  const std::size_t nbytes = n * size_of(call.dtype);
  const bool is_root = flight.rank() == call.root;
  const bool sums = call.kind == Kind::kAllReduce || call.kind == Kind::kReduce || call.kind == Kind::kReduceScatter;
  const ReduceOp op = sums ? call.op : ReduceOp::kSum;
  const Reduction reduction = op == ReduceOp::kPreMulSum ? premul_sum(factor_of(flight.rank())) : Reduction(op);
  const auto theirs = [&](std::size_t rank) -> const Pattern& {
    return Pattern::of_rank(static_cast<int>(rank), call.dtype, op);
  };
  const Pattern& result = Pattern::of_result(static_cast<int>(p), call.dtype, op);
  const std::size_t root = static_cast<std::size_t>(call.root);
  flight.reserve(call, p * n, p * n);
  std::byte* const in = flight.input;
  std::byte* out = flight.output;
  const std::size_t f = call.first;
  theirs(me).write(in, p * n, f);
  switch (call.kind) {
    case Kind::kBarrier: flight.works.push_back(group.barrier_async(call.options)); return;
    case Kind::kBroadcast:
      flight.works.push_back(group.broadcast_async(in, n, call.dtype, call.root, call.options));
      return flight.expect(theirs(root), in, n, f);
    case Kind::kAllReduce:
      out = call.in_place ? in : out;
      flight.works.push_back(group.all_reduce_async(in, out, n, call.dtype, reduction, call.options));
      return flight.expect(result, out, n, f);
    case Kind::kReduce:
      out = call.in_place ? in : out;
      flight.works.push_back(group.reduce_async(in, out, n, call.dtype, call.root, reduction, call.options));
      return is_root ? flight.expect(result, out, n, f) : flight.expect(theirs(me), in, n, f);
    case Kind::kReduceScatter:
      out = call.in_place ? in + me * nbytes : out;
      flight.works.push_back(group.reduce_scatter_async(in, out, n, call.dtype, reduction, call.options));
      return flight.expect(result, out, n, f + me * n);
    case Kind::kAllGather:
    case Kind::kGather: {
      std::byte* const own = call.in_place && (is_root || call.kind == Kind::kAllGather) ? out + me * nbytes : in;
      theirs(me).write(own, n, f);
      flight.works.push_back(call.kind == Kind::kAllGather
                                 ? group.all_gather_async(own, out, n, call.dtype, call.options)
                                 : group.gather_async(own, out, n, call.dtype, call.root, call.options));
      if (call.kind == Kind::kGather && !is_root) return;
      for (std::size_t r = 0; r < p; ++r) flight.expect(theirs(r), out + r * nbytes, n, f);
      return;
    }
    case Kind::kScatter:
      flight.works.push_back(group.scatter_async(in, out, n, call.dtype, call.root, call.options));
      return flight.expect(theirs(root), out, n, f + me * n);
    default:
      flight.works.push_back(group.all_to_all_async(in, out, n, call.dtype, call.options));
      for (std::size_t r = 0; r < p; ++r) flight.expect(theirs(r), out + r * nbytes, n, f + me * n);
  }
}

void RandomOperations::start_unequal(const Call& call, Flight& flight) {
  Communicator& group = *flight.group;
  const std::size_t p = flight.world();
  const auto me = static_cast<std::size_t>(flight.rank());
  const std::size_t size = size_of(call.dtype);
  const std::size_t f = call.first;
  const auto theirs = [&](std::size_t rank) -> const Pattern& {
    return Pattern::of_rank(static_cast<int>(rank), call.dtype);
  };
  const std::size_t total = sum_of(call.counts, 0, call.counts.size());
  flight.reserve(call, total, total);
  std::byte* const in = flight.input;
  std::byte* const out = flight.output;
  theirs(me).write(in, total, f);
  if (call.kind == Kind::kAllGatherUnequal) {
    flight.works.push_back(group.all_gather_async(in, out, Counts(call.counts), call.dtype, call.options));
    for (std::size_t r = 0; r < p; ++r) {
      flight.expect(theirs(r), out + sum_of(call.counts, 0, r) * size, call.counts[r], f);
    }
  } else if (call.kind == Kind::kReduceScatterUnequal) {
    flight.works.push_back(group.reduce_scatter_async(in, out, Counts(call.counts), call.dtype, {}, call.options));
    const Pattern& result = Pattern::of_result(static_cast<int>(p), call.dtype);
    flight.expect(result, out, call.counts[me], f + sum_of(call.counts, 0, me));
  } else {
    // Rank s sends counts[s * p + d] to rank d.
    std::vector<std::size_t> receives;
    std::size_t at = 0;
    for (std::size_t s = 0; s < p; ++s) {
      const std::size_t n = call.counts[s * p + me];
      flight.expect(theirs(s), out + at * size, n, f + sum_of(call.counts, s * p, me));
      receives.push_back(n);
      at += n;
    }
    const Counts sends = Counts(call.counts).subspan(me * p, p);
    flight.works.push_back(group.all_to_all_async(in, sends, out, receives, call.dtype, call.options));
  }
}

void RandomOperations::start_coalesced(const Call& call, Flight& flight) {
  Communicator& group = *flight.group;
  const std::size_t p = flight.world();
  const auto me = static_cast<std::size_t>(flight.rank());
  const std::size_t size = size_of(call.dtype);
  const std::size_t in_factor = call.kind == Kind::kReduceScatterCoalesced ? p : 1;
  const std::size_t out_factor = call.kind == Kind::kAllGatherCoalesced ? p : 1;
  const bool in_place = call.kind == Kind::kAllReduceCoalesced && call.in_place;
  const std::size_t total = sum_of(call.counts, 0, call.counts.size());
  flight.reserve(call, in_factor * total, out_factor * total);
  const auto theirs = [&](std::size_t rank) -> const Pattern& {
    return Pattern::of_rank(static_cast<int>(rank), call.dtype);
  };
  const Pattern& result = Pattern::of_result(static_cast<int>(p), call.dtype);
  std::vector<BufferPair> pairs;
  std::size_t at = 0;
  for (std::size_t i = 0; i < call.counts.size(); ++i) {
    const std::size_t n = call.counts[i];
    const std::size_t f = call.first + i * 13;
    std::byte* const in = flight.input + at * in_factor * size;
    std::byte* const out = in_place ? in : flight.output + at * out_factor * size;
    theirs(me).write(in, n * in_factor, f);
    if (call.kind == Kind::kBroadcastCoalesced) theirs(me).write(out, n, f);
    pairs.push_back({in, out, n});
    at += n;
    switch (call.kind) {
      case Kind::kAllReduceCoalesced: flight.expect(result, out, n, f); break;
      case Kind::kBroadcastCoalesced: flight.expect(theirs(static_cast<std::size_t>(call.root)), out, n, f); break;
      case Kind::kReduceScatterCoalesced: flight.expect(result, out, n, f + me * n); break;
      default:
        for (std::size_t r = 0; r < p; ++r) flight.expect(theirs(r), out + r * n * size, n, f);
    }
  }
  switch (call.kind) {
    case Kind::kAllReduceCoalesced:
      flight.works.push_back(group.all_reduce_coalesced_async(pairs, call.dtype, {}, call.options));
      return;
    case Kind::kBroadcastCoalesced:
      flight.works.push_back(group.broadcast_coalesced_async(pairs, call.dtype, call.root, call.options));
      return;
    case Kind::kReduceScatterCoalesced:
      flight.works.push_back(group.reduce_scatter_coalesced_async(pairs, call.dtype, {}, call.options));
      return;
    default: flight.works.push_back(group.all_gather_coalesced_async(pairs, call.dtype, call.options));
  }
}

void RandomOperations::start_ring(const Call& call, Flight& flight) {
  Communicator& group = *flight.group;
  const int p = group.world_size();
  const int shift = call.root;  // Any number below p: 0 is to oneself.
  const int to = (flight.rank() + shift) % p;
  const int from = (flight.rank() + p - shift) % p;
  const int tag = static_cast<int>(call.first % 5);
  flight.reserve(call, call.count, call.count);
  Pattern::of_rank(flight.rank(), call.dtype).write(flight.input, call.count, call.first);
  const auto send = [&] {
    flight.works.push_back(group.send_async(flight.input, call.count, call.dtype, to, tag, call.options));
  };
  const auto receive = [&] {
    flight.works.push_back(group.recv_async(flight.output, call.count, call.dtype, from, tag, call.options));
  };
  draw_own(2) == 0 ? (send(), receive()) : (receive(), send());
  if (draw_own(2) == 0) std::swap(flight.works[0], flight.works[1]);
  flight.expect(Pattern::of_rank(from, call.dtype), flight.output, call.count, call.first);
}

void RandomOperations::gather_from_any(const Call& call, Flight& flight) {
  Communicator& group = *flight.group;
  const std::size_t p = flight.world();
  const std::size_t nbytes = call.count * size_of(call.dtype);
  const int tag = 1000 + static_cast<int>(step_);  // Its own: what is meant for another receive must not come here.
  flight.reserve(call, call.count, p * call.count);
  Pattern::of_rank(flight.rank(), call.dtype).write(flight.input, call.count, call.first);
  flight.works.push_back(group.send_async(flight.input, call.count, call.dtype, call.root, tag, call.options));
  if (flight.rank() != call.root) return;
  std::vector<bool> seen(p, false);
  for (std::size_t k = 0; k < p; ++k) {
    std::byte* const out = flight.output + k * nbytes;
    const int source = group.recv(out, call.count, call.dtype, kAnySource, tag, call.options);
    if (source < 0 || static_cast<std::size_t>(source) >= p || seen[static_cast<std::size_t>(source)]) {
      throw std::logic_error(call.text + ": a message came from rank " + std::to_string(source));
    }
    seen[static_cast<std::size_t>(source)] = true;
    flight.expect(Pattern::of_rank(source, call.dtype), out, call.count, call.first);
  }
}

}  // namespace lockstep::support
