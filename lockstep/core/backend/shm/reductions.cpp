// all_reduce, reduce and reduce_scatter, on all paths.

#include <algorithm>

#include "lockstep/core/backend/shm/stages.h"

namespace lockstep::shm {
namespace {

bool is_scatter(const Call& call) { return call.collective.kind == OpKind::kReduceScatter; }

/// Of a piece, each rank stages what the others combine.
void post_chunks(const Call& call) {
  const Range piece = call.piece(call.collective.count);
  for (int peer = 0; peer < call.world; ++peer) {
    if (peer == call.rank) continue;
    const Range chunk = call.chunk(piece.size(), peer);
    copy_bytes(call.staged(call.rank) + chunk.begin * call.width, call.input(piece.begin + chunk.begin),
               chunk.size() * call.width);
  }
}

void post_parts(const Call& call) {
  for (int peer = 0; peer < call.world; ++peer) {
    if (peer == call.rank) continue;
    const Range piece = call.piece(call.count_of(peer));
    copy_bytes(call.staged(call.rank) + call.slot_offset(peer), call.input(call.begin_of(peer) + piece.begin),
               piece.size() * call.width);
  }
}

/// Everyone's element `at_input` of the input on this rank, of the staged copy on the others.
PerRank<const void*> sources_of(const Call& call, std::size_t at_input, std::size_t staged_offset) {
  PerRank<const void*> sources(call.world);
  for (int peer = 0; peer < call.world; ++peer) {
    sources[peer] = peer == call.rank ? call.input(at_input) : call.staged(peer) + staged_offset;
  }
  return sources;
}

void work_parts(const Call& call) {
  const Range piece = call.piece(call.count_of(call.rank));
  auto sources = sources_of(call, call.begin_of(call.rank) + piece.begin, call.slot_offset(call.rank));
  void* const destination = call.output(piece.begin);
  call.reduce(sources.view(), {&destination, 1}, piece.size());
}

void work_whole(const Call& call) {
  const Range piece = call.piece(call.collective.count);
  auto sources = sources_of(call, piece.begin, 0);
  void* const destination = call.output(piece.begin);
  call.reduce(sources.view(), {&destination, 1}, piece.size());
}

void work_chunk(const Call& call) {
  const Range piece = call.piece(call.collective.count);
  const Range chunk = call.chunk(piece.size(), call.rank);
  auto sources = sources_of(call, piece.begin + chunk.begin, chunk.begin * call.width);
  const bool reduce = call.collective.kind == OpKind::kReduce;
  const bool wanted_here = !reduce || call.rank == call.collective.root;
  void* const destination = wanted_here ? call.output(piece.begin + chunk.begin) : call.second_half(call.rank);
  call.reduce(sources.view(), {&destination, 1}, chunk.size());
  // Apart from the sum: the C library's copy takes over lines that a far core has read twice as fast as our stores.
  const bool wanted_elsewhere = !reduce || call.rank != call.collective.root;
  if (wanted_elsewhere) copy_bytes(call.second_half(call.rank), destination, chunk.size() * call.width);
}

// ---- straight between the ranks' buffers ----

PerRank<const void*> inputs_of(const Call& call, std::size_t element) {
  PerRank<const void*> sources(call.world);
  for (int peer = 0; peer < call.world; ++peer) {
    sources[peer] = call.resolve(peer, call.addresses(peer).input) + element * call.width;
  }
  return sources;
}

constexpr std::size_t kTurnBytes = 256u << 10;
constexpr std::size_t kTurns = 4;  ///< of each rank, at least: where one has one more, the others wait little

/// What is larger than the caches was written from its beginning, so they hold its end. Ranks take turns from there, so
/// that each meets as much of that as the others: with halves the rank of the first one would wait for memory.
void direct_all_reduce(const Call& call) {
  const auto reduce = [&](Range range) {
    auto sources = inputs_of(call, range.begin);
    PerRank<void*> destinations(call.world);
    for (int peer = 0; peer < call.world; ++peer) {
      destinations[peer] = call.resolve(peer, call.addresses(peer).output) + range.begin * call.width;
    }
    call.reduce(sources.view(), destinations.view(), range.size());
  };
  const std::size_t count = call.collective.count;
  const std::size_t turn = kTurnBytes / call.width;
  const auto ranks = static_cast<std::size_t>(call.world);
  if (count < kTurns * turn * ranks) return reduce(call.chunk(count, call.rank));
  for (std::size_t k = (count + turn - 1) / turn; k-- > 0;) {
    if (k % ranks == static_cast<std::size_t>(call.rank)) reduce({k * turn, std::min(count, (k + 1) * turn)});
  }
}

void direct_reduce(const Call& call) {
  const int root = call.collective.root;
  const SharedAddress target = call.addresses(root).output;
  if (target.allocation != 0) {
    const Range chunk = call.chunk(call.collective.count, call.rank);
    auto sources = inputs_of(call, chunk.begin);
    void* const destination = call.resolve(root, target) + chunk.begin * call.width;
    return call.reduce(sources.view(), {&destination, 1}, chunk.size());
  }
  // Nobody but the root can write there.
  if (call.rank != root) return;
  auto sources = inputs_of(call, 0);
  void* const destination = call.output(0);
  call.reduce(sources.view(), {&destination, 1}, call.collective.count);
}

void direct_reduce_scatter(const Call& call) {
  auto sources = inputs_of(call, call.begin_of(call.rank));
  void* const destination = call.output(0);
  call.reduce(sources.view(), {&destination, 1}, call.count_of(call.rank));
}

}  // namespace

void post_reduction(const Call& call) {
  if (is_scatter(call)) return post_parts(call);
  if (call.plan.path == Path::kStaged) return post_chunks(call);
  if (call.collective.kind == OpKind::kReduce && call.rank == call.collective.root) return;
  const Range piece = call.piece(call.collective.count);
  copy_bytes(call.staged(call.rank), call.input(piece.begin), piece.size() * call.width);
}

void work_reduction(const Call& call) {
  const bool reduce = call.collective.kind == OpKind::kReduce;
  if (call.plan.path == Path::kDirect) {
    if (is_scatter(call)) return direct_reduce_scatter(call);
    return reduce ? direct_reduce(call) : direct_all_reduce(call);
  }
  if (is_scatter(call)) return work_parts(call);
  if (call.plan.path == Path::kStaged) return work_chunk(call);
  if (!reduce || call.rank == call.collective.root) work_whole(call);
}

void finish_reduction(const Call& call) {
  const OpKind kind = call.collective.kind;
  if (kind == OpKind::kReduceScatter || (kind == OpKind::kReduce && call.rank != call.collective.root)) return;
  const Range piece = call.piece(call.collective.count);
  for (int peer = 0; peer < call.world; ++peer) {
    if (peer == call.rank) continue;
    const Range chunk = call.chunk(piece.size(), peer);
    copy_bytes(call.output(piece.begin + chunk.begin), call.second_half(peer), chunk.size() * call.width);
  }
}

}  // namespace lockstep::shm
