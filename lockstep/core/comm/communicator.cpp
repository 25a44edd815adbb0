#include "lockstep/core/comm/communicator.h"

#include <utility>

#include "lockstep/core/base/check.h"
#include "lockstep/core/comm/recorder.h"

namespace lockstep {
namespace {

Collective make(OpKind kind, const void* input, void* output, std::size_t count, DType dtype) {
  Collective collective;
  collective.kind = kind;
  collective.input = input;
  collective.output = output;
  collective.count = count;
  collective.dtype = dtype;
  return collective;
}

Collective make_reduction(OpKind kind, const void* input, void* output, std::size_t count, DType dtype, ReduceOp op) {
  Collective collective = make(kind, input, output, count, dtype);
  collective.op = op;
  return collective;
}

Collective make_broadcast(void* data, std::size_t count, DType dtype, int root) {
  Collective collective = make(OpKind::kBroadcast, nullptr, data, count, dtype);
  collective.root = root;
  return collective;
}

bool reduces(OpKind kind) { return kind == OpKind::kAllReduce || kind == OpKind::kReduceScatter; }

}  // namespace

std::shared_ptr<Communicator> Communicator::create(std::unique_ptr<Backend> backend, CommunicatorOptions options) {
  return std::shared_ptr<Communicator>(new Communicator(std::move(backend), std::move(options)));
}

Communicator::Communicator(std::unique_ptr<Backend> backend, CommunicatorOptions options)
    : backend_(std::move(backend)),
      options_(std::move(options)),
      recorder_(std::make_unique<Recorder>(options_.recorder_capacity)) {}

Communicator::~Communicator() = default;

int Communicator::rank() const noexcept { return backend_->rank(); }
int Communicator::world_size() const noexcept { return backend_->world_size(); }
const std::string& Communicator::name() const noexcept { return options_.name; }
std::string_view Communicator::backend_name() const noexcept { return backend_->name(); }

// ---- the operations ----

void Communicator::barrier(const OpOptions& options) {
  run(make(OpKind::kBarrier, nullptr, nullptr, 0, DType::kUInt8), options);
}

void Communicator::broadcast(void* data, std::size_t count, DType dtype, int root, const OpOptions& options) {
  run(make_broadcast(data, count, dtype, root), options);
}

void Communicator::all_reduce(const void* input, void* output, std::size_t count, DType dtype, ReduceOp op,
                              const OpOptions& options) {
  run(make_reduction(OpKind::kAllReduce, input, output, count, dtype, op), options);
}

void Communicator::reduce_scatter(const void* input, void* output, std::size_t count, DType dtype, ReduceOp op,
                                  const OpOptions& options) {
  run(make_reduction(OpKind::kReduceScatter, input, output, count, dtype, op), options);
}

void Communicator::all_gather(const void* input, void* output, std::size_t count, DType dtype,
                              const OpOptions& options) {
  run(make(OpKind::kAllGather, input, output, count, dtype), options);
}

Work Communicator::barrier_async(const OpOptions& options) {
  return run_async(make(OpKind::kBarrier, nullptr, nullptr, 0, DType::kUInt8), options);
}

Work Communicator::broadcast_async(void* data, std::size_t count, DType dtype, int root, const OpOptions& options) {
  return run_async(make_broadcast(data, count, dtype, root), options);
}

Work Communicator::all_reduce_async(const void* input, void* output, std::size_t count, DType dtype, ReduceOp op,
                                    const OpOptions& options) {
  return run_async(make_reduction(OpKind::kAllReduce, input, output, count, dtype, op), options);
}

Work Communicator::reduce_scatter_async(const void* input, void* output, std::size_t count, DType dtype, ReduceOp op,
                                        const OpOptions& options) {
  return run_async(make_reduction(OpKind::kReduceScatter, input, output, count, dtype, op), options);
}

Work Communicator::all_gather_async(const void* input, void* output, std::size_t count, DType dtype,
                                    const OpOptions& options) {
  return run_async(make(OpKind::kAllGather, input, output, count, dtype), options);
}

BackendMemory Communicator::allocate(std::size_t nbytes, const OpOptions& options) {
  Collective collective;
  collective.kind = OpKind::kAllocate;
  collective.count = nbytes;
  const Deadline deadline = begin(collective, options);
  try {
    BackendMemory memory = backend_->allocate(nbytes, collective.sequence, deadline);
    recorder_->finished(collective.sequence);
    return memory;
  } catch (const Error&) {
    fail();
  }
}

// ---- one walk for all of them ----

Deadline Communicator::begin(Collective& collective, const OpOptions& options) {
  require_usable();
  collective.label = options.label;
  LS_REQUIRE(!reduces(collective.kind) || is_supported(collective.op, collective.dtype), "group ", options_.name, ": ",
             name_of(collective.kind), " with ", name_of(collective.op), " is not defined for ",
             name_of(collective.dtype));
  LS_REQUIRE(collective.root >= 0 && collective.root < world_size(), "group ", options_.name, ": ",
             name_of(collective.kind), ": root ", collective.root, " is not a rank of a group of ", world_size());
  const bool moves =
      collective.kind != OpKind::kBarrier && collective.kind != OpKind::kAllocate && collective.count != 0;
  const bool has_input = collective.kind == OpKind::kBroadcast || collective.input != nullptr;
  LS_REQUIRE(!moves || (has_input && collective.output != nullptr), "group ", options_.name, ": ",
             name_of(collective.kind), " of ", collective.count, " elements was given a null buffer");
  collective.sequence = ++sequence_;
  recorder_->started(collective);
  return Deadline::after(options.timeout.value_or(options_.timeout));
}

void Communicator::run(Collective collective, const OpOptions& options) {
  const Deadline deadline = begin(collective, options);
  try {
    backend_->start(collective, deadline);
    backend_->wait(collective.sequence, deadline);
  } catch (const Error&) {
    fail();
  }
  recorder_->finished(collective.sequence);
}

Work Communicator::run_async(Collective collective, const OpOptions& options) {
  const Deadline deadline = begin(collective, options);
  try {
    backend_->start(collective, deadline);
  } catch (const Error&) {
    fail();
  }
  return Work(shared_from_this(), collective.sequence, deadline);
}

bool Communicator::test(std::uint64_t sequence) {
  require_usable();
  try {
    if (!backend_->test(sequence)) return false;
  } catch (const Error&) {
    fail();
  }
  recorder_->finished(sequence);
  return true;
}

void Communicator::wait(std::uint64_t sequence, Deadline deadline) {
  require_usable();
  try {
    backend_->wait(sequence, deadline);
  } catch (const Error&) {
    fail();
  }
  recorder_->finished(sequence);
}

void Communicator::progress() {
  if (sequence_ != 0) test(sequence_);
}

void Communicator::abort(std::string_view cause) noexcept { backend_->abort(cause); }

void Communicator::require_usable() const {
  if (first_cause_.empty()) return;
  throw AbortedError(
      base::cat("rank ", rank(), "/", world_size(), " group ", options_.name,
                ": the group can't be used any more, build a new one; it failed first with: ", first_cause_));
}

void Communicator::fail() {
  try {
    throw;
  } catch (const std::exception& error) {
    first_cause_ = error.what();
    // Where the failure is this rank's alone (memory, say), peers must not wait for it.
    backend_->abort(first_cause_);
    if (!options_.dump_directory.empty())
      recorder_->dump(options_.dump_directory, options_.name, *backend_, first_cause_);
    throw;
  }
}

// ---- Work ----

bool Work::done() { return communicator_ == nullptr || communicator_->test(sequence_); }

void Work::wait() {
  if (communicator_ != nullptr) communicator_->wait(sequence_, deadline_);
}

}  // namespace lockstep
