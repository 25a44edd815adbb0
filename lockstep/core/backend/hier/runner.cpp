// Each engine begins the steps of its own in the order of operations and of the list, which all ranks that share the
// engine have in common; a step begins once what it needs is there. So nothing here depends on who is faster.

#include "lockstep/core/backend/hier/runner.h"

#include <algorithm>
#include <cstring>

#include "lockstep/core/backend/background.h"
#include "lockstep/core/backend/packed.h"
#include "lockstep/core/backend/turn.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/kernels/kernels.h"

namespace lockstep::hier {
namespace {

constexpr std::size_t kStepsInEngine = 64;  ///< begun and not complete; below what any backend takes without waiting

std::size_t index_of(Engine engine) noexcept { return static_cast<std::size_t>(engine); }

Topology numbered_by_host(const Topology& topology) {
  Topology result = topology;
  int next = 0;
  for (std::size_t host = 0; host < result.ranks_of_host.size(); ++host) {
    for (std::size_t local = 0; local < result.ranks_of_host[host].size(); ++local, ++next) {
      if (result.ranks_of_host[host][local] == topology.rank) result.rank = next;
      result.ranks_of_host[host][local] = next;
      result.host_of_rank[static_cast<std::size_t>(next)] = static_cast<int>(host);
      result.local_rank_of[static_cast<std::size_t>(next)] = static_cast<int>(local);
    }
  }
  return result;
}

/// True where the caller's buffer holds a part for each rank, which the engines need in the order of hosts.
bool has_parts(OpKind kind) noexcept { return kind == OpKind::kAllGather || kind == OpKind::kReduceScatter; }

}  // namespace

Runner::Runner(Backends backends, Topology topology, std::string group)
    : backends_(std::move(backends)),
      topology_(std::move(topology)),
      in_order_(numbered_by_host(topology_)),
      group_(std::move(group)),
      failure_(*backends_.failure),
      calls_(*backends_.calls) {}

// Before anything goes that a peer may still be sending to.
Runner::~Runner() { backends_.transport->close(std::chrono::seconds(2)); }

Backend* Runner::backend(Engine engine) const noexcept {
  switch (engine) {
    case Engine::kInner: return backends_.inner.get();
    case Engine::kCross: return backends_.cross.get();
    case Engine::kFlat: return backends_.flat.get();
    case Engine::kHere: break;
  }
  return nullptr;
}

// ---- beginning ----

void Runner::start(const Collective& collective, Deadline deadline) {
  const Turn turn(entered_);
  const std::uint64_t origin = calls_.add(collective);
  if (failure_.poll()) throw_failed();
  if (operations_.size() >= kCapacity) {
    wait_until([this] { return operations_.size() < kCapacity; }, deadline,
               [this](const Deadline& passed) { time_out(passed); });
  }
  auto operation = std::make_unique<Operation>();
  operation->collective = collective;
  operation->origin = origin;
  operation->extent = extent_of(collective, topology_.rank, topology_.world_size);
  operation->offsets = offsets_of(collective.counts);
  if (collective.kind == OpKind::kAllToAll && !collective.counts.empty()) {
    // The flat engine reads both lists when its step begins, which may be later: they are kept behind each other.
    operation->offsets.assign(collective.counts.begin(), collective.counts.end());
    operation->offsets.insert(operation->offsets.end(), collective.recv_counts.begin(), collective.recv_counts.end());
  }
  operation->collective.counts = {};
  operation->collective.recv_counts = {};
  for (const auto& earlier : operations_) {
    if (conflict(collective, operation->extent, earlier->collective, earlier->extent)) {
      operation->after = earlier->collective.sequence;
    }
  }
  operations_.push_back(std::move(operation));
  progress();
  if (!idle()) Background::wake();
  show_in_flight();
}

void Runner::begin(Operation& operation) {
  Collective& call = operation.collective;
  if (call.packed) call.packed->pack();
  operation.input = static_cast<const std::byte*>(call.input);
  operation.output = static_cast<std::byte*>(call.output);
  const bool unequal_exchange = call.kind == OpKind::kAllToAll;
  std::vector<std::size_t> offsets = unequal_exchange ? std::vector<std::size_t>() : operation.offsets;
  const bool reordered = has_parts(call.kind) && !topology_.contiguous();
  if (reordered) {
    if (!offsets.empty()) {
      std::vector<std::size_t> counts;
      for (const auto& ranks : topology_.ranks_of_host) {
        for (const int rank : ranks) {
          const auto at = static_cast<std::size_t>(rank);
          counts.push_back(operation.offsets[at + 1] - operation.offsets[at]);
        }
      }
      offsets = offsets_of(counts);
    }
    reorder_input(operation);
  }
  operation.program = program_for(call, offsets, has_parts(call.kind) ? in_order_ : topology_);
  operation.temporary.resize(operation.program.temporary_nbytes);
  operation.undone = operation.program.steps.size();
  operation.done.resize(operation.undone);
  operation.begun = true;
}

/// Copies the parts of the caller's input, or makes room for those of the output, in the order of hosts.
void Runner::reorder_input(Operation& operation) {
  const Collective& call = operation.collective;
  const std::size_t width = size_of(call.dtype);
  const auto world = static_cast<std::size_t>(topology_.world_size);
  const std::size_t total = operation.offsets.empty() ? call.count * world : operation.offsets.back();
  operation.reordered.resize(total * width);
  if (call.kind == OpKind::kAllGather) {
    operation.output = operation.reordered.data();
    return;
  }
  std::byte* to = operation.reordered.data();
  for (const auto& ranks : topology_.ranks_of_host) {
    for (const int rank : ranks) {
      const auto at = static_cast<std::size_t>(rank);
      const std::size_t begin = operation.offsets.empty() ? at * call.count : operation.offsets[at];
      const std::size_t count = operation.offsets.empty() ? call.count : operation.offsets[at + 1] - begin;
      if (count != 0) std::memcpy(to, operation.input + begin * width, count * width);
      to += count * width;
    }
  }
  operation.input = operation.reordered.data();
}

void Runner::reorder_output(const Operation& operation) {
  const Collective& call = operation.collective;
  if (call.kind != OpKind::kAllGather || operation.reordered.empty()) return;
  const std::size_t width = size_of(call.dtype);
  const std::byte* from = operation.reordered.data();
  for (const auto& ranks : topology_.ranks_of_host) {
    for (const int rank : ranks) {
      const auto at = static_cast<std::size_t>(rank);
      const std::size_t begin = operation.offsets.empty() ? at * call.count : operation.offsets[at];
      const std::size_t count = operation.offsets.empty() ? call.count : operation.offsets[at + 1] - begin;
      if (count != 0) std::memcpy(static_cast<std::byte*>(call.output) + begin * width, from, count * width);
      from += count * width;
    }
  }
}

// ---- steps ----

bool Runner::ready(const Operation& operation, const Step& step) const {
  return std::ranges::all_of(
      step.after, [&](int before) { return before < 0 || operation.done[static_cast<std::size_t>(before)]; });
}

Collective Runner::call_of(const Operation& operation, const Step& step) const {
  const auto at = [&](const Place& place) -> std::byte* {
    switch (place.where) {
      // Only read through this pointer.
      case Place::Where::kInput: return const_cast<std::byte*>(operation.input) + place.offset;
      case Place::Where::kOutput: return operation.output + place.offset;
      case Place::Where::kTemporary: return const_cast<std::byte*>(operation.temporary.data()) + place.offset;
      case Place::Where::kNowhere: break;
    }
    return nullptr;
  };
  const Collective& whole = operation.collective;
  Collective call;
  call.kind = step.kind;
  call.dtype = whole.dtype;
  call.op = step.op;
  call.root = step.root;
  call.factor = step.factor;
  call.count = step.count;
  call.counts = step.counts;
  call.input = at(step.input);
  call.output = at(step.output);
  call.label = whole.label;
  call.origin = operation.origin;
  if (step.kind == OpKind::kAllToAll && !operation.offsets.empty()) {
    const auto world = static_cast<std::size_t>(topology_.world_size);
    const std::span<const std::size_t> lists = operation.offsets;
    call.counts = lists.first(world);
    call.recv_counts = lists.last(world);
  }
  return call;
}

void Runner::do_here(const Operation& operation, const Step& step) const {
  const Collective call = call_of(operation, step);
  if (step.kind == OpKind::kAllReduce) return kernels::scale(call.output, call.count, call.dtype, call.factor);
  std::memcpy(call.output, call.input, call.count * size_of(call.dtype));
}

void Runner::complete(Operation& operation, std::size_t index) {
  operation.done[index] = true;
  --operation.undone;
}

bool Runner::begin_step(Operation& operation, std::size_t index) {
  const Step& step = operation.program.steps[index];
  if (!ready(operation, step)) return false;
  if (step.engine == Engine::kHere) {
    do_here(operation, step);
    complete(operation, index);
    return true;
  }
  const std::size_t at = index_of(step.engine);
  if (in_engine_[at].size() >= kStepsInEngine) return false;
  Collective call = call_of(operation, step);
  call.sequence = ++sequence_[at];
  in_engine_[at].push_back({&operation, index, call.sequence});
  guarded(step.engine, [&] { backend(step.engine)->start(call, Deadline::none()); });
  return true;
}

bool Runner::begin_steps(Engine engine) {
  bool moved = false;
  for (auto& each : operations_) {
    Operation& operation = *each;
    if (!operation.begun) break;
    const auto& steps = operation.program.steps;
    std::size_t& next = operation.next[index_of(engine)];
    for (; next < steps.size(); ++next) {
      if (steps[next].engine != engine) continue;
      if (!begin_step(operation, next)) return moved;
      moved = true;
    }
  }
  return moved;
}

bool Runner::collect(Engine engine) {
  auto& begun = in_engine_[index_of(engine)];
  bool moved = false;
  while (!begun.empty()) {
    const InEngine& oldest = begun.front();
    if (!guarded(engine, [&] { return backend(engine)->test(oldest.sequence); })) break;
    complete(*oldest.operation, oldest.step);
    begun.pop_front();
    moved = true;
  }
  return moved;
}

bool Runner::retire() {
  bool moved = false;
  while (!operations_.empty() && operations_.front()->begun && operations_.front()->undone == 0) {
    const Operation& first = *operations_.front();
    reorder_output(first);
    if (first.collective.packed) first.collective.packed->unpack();
    finished_ = first.collective.sequence;
    operations_.pop_front();
    moved = true;
  }
  return moved;
}

bool Runner::progress() {
  bool moved = false;
  for (bool again = !operations_.empty(); again; moved |= again) {
    again = false;
    for (auto& operation : operations_) {
      if (operation->begun) continue;
      if (operation->after != 0 && !finished(operation->after)) break;
      begin(*operation);
      again = true;
    }
    for (const Engine engine : {Engine::kHere, Engine::kInner, Engine::kCross, Engine::kFlat}) {
      again |= begin_steps(engine);
      if (engine != Engine::kHere) again |= collect(engine);
    }
    again |= retire();
  }
  return moved;
}

std::string Runner::doing() const {
  std::string text = base::cat("rank ", topology_.rank, "/", topology_.world_size, " group ", group_);
  if (!operations_.empty()) text += ": " + describe(operations_.front()->collective);
  return text;
}

}  // namespace lockstep::hier
