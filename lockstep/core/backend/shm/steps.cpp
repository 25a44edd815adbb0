// The five paths, as bytes.
//
//   inline, flat   post: my contribution, or a piece of it -> arrival line or slot
//                  work: combine or copy everyone's into my output
//   staged         post: of a piece, the chunks that the others combine -> slot
//                  work: combine my chunk of the piece, into my output and my slot's second half
//                  finish: copy the others' chunks from their slots' second halves
//   direct         post: nothing but addresses
//                  work: reductions of whole buffers: my share straight from all inputs, pushed straight into all
//                  outputs ("two hand-offs whatever the size"); all_gather: push mine into all outputs where
//                  all are backend memory; else pull what I need from the peers' inputs
//
// Reductions take their sources in rank order, so that all ranks hold equal bits whoever did the sum.

#include "lockstep/core/backend/shm/steps.h"

#include <cstring>

#include "lockstep/core/backend/shm/stages.h"
#include "lockstep/core/base/check.h"

namespace lockstep::shm {

void Call::reduce(std::span<const void* const> sources, std::span<void* const> destinations, std::size_t count) const {
  if (count == 0) return;
  kernels::Reduction how{collective.dtype, collective.op, world, {}};
  if (collective.op != ReduceOp::kPreMulSum) return kernels::reduce(sources, destinations, count, how);
  PerRank<double> factors(world);
  for (int peer = 0; peer < world; ++peer) {
    factors[peer] = peer == rank ? collective.factor : segment.arrival(peer, tick).factor;
  }
  how.factors = factors.view();
  kernels::reduce(sources, destinations, count, how);
}

DirectAddresses Call::addresses(int of) const {
  // Not from this rank's own line: it may still be on its way there, and has to come back from the peers.
  if (of == rank) return {operation.input, operation.output};
  DirectAddresses addresses;
  std::memcpy(&addresses, segment.arrival(of, tick).payload, sizeof addresses);
  return addresses;
}

std::byte* Call::resolve(int of, SharedAddress address) const {
  std::byte* const found = segment.resolve(of, address);
  LS_REQUIRE(found != nullptr, describe(collective), ": rank ", of,
             " uses backend memory that this rank has freed; keep an allocation until all ranks are done with it");
  return found;
}

void post(const Segment& segment, const Operation& operation, std::uint64_t index, std::uint64_t tick) {
  if (operation.plan.path == Path::kSync) return;
  if (operation.plan.path == Path::kDirect || operation.plan.open) {
    const DirectAddresses addresses{operation.input, operation.output};
    std::memcpy(segment.arrival(segment.rank(), tick).payload, &addresses, sizeof addresses);
    if (!operation.plan.open) return;
  }
  const Call call(segment, operation, index, tick);
  reduces(operation.collective.kind) ? post_reduction(call) : post_exchange(call);
}

void work(const Segment& segment, const Operation& operation, std::uint64_t index, std::uint64_t tick) {
  if (operation.plan.path == Path::kSync) return;
  const Call call(segment, operation, index, tick);
  reduces(operation.collective.kind) ? work_reduction(call) : work_exchange(call);
}

void finish(const Segment& segment, const Operation& operation, std::uint64_t index, std::uint64_t tick) {
  if (operation.plan.path != Path::kStaged || !reduces(operation.collective.kind)) return;
  finish_reduction(Call(segment, operation, index, tick));
}

void close_plan(const Segment& segment, Operation& operation, std::uint64_t tick) {
  close_exchange(Call(segment, operation, 0, tick), operation);
}

}  // namespace lockstep::shm
