// One walk for all operations: check, number, record, hand to the backend, wait. Their forms: operations.cpp.

#include "lockstep/core/comm/communicator.h"

#include <algorithm>
#include <utility>

#include "lockstep/core/base/check.h"
#include "lockstep/core/comm/recorder.h"

namespace lockstep {

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

int Communicator::global_rank(int rank) const noexcept {
  return options_.global_ranks.empty() ? rank : options_.global_ranks[static_cast<std::size_t>(rank)];
}

std::vector<PathEstimate> Communicator::explain(const Collective& collective, bool backend_memory) const {
  return backend_->explain(collective, backend_memory);
}

std::string Communicator::who() const {
  return base::cat("rank ", rank(), "/", world_size(), " group ", options_.name);
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

// ---- collectives ----

void Communicator::check(const Collective& collective) const {
  const OpKind kind = collective.kind;
  LS_REQUIRE(!reduces(kind) || is_supported(collective.op, collective.dtype), who(), ": ", name_of(kind), " with ",
             name_of(collective.op), " is not defined for ", name_of(collective.dtype));
  LS_REQUIRE(collective.root >= 0 && collective.root < world_size(), who(), ": ", name_of(kind), ": root ",
             collective.root, " is not a rank of a group of ", world_size());
  if (kind == OpKind::kBarrier || kind == OpKind::kAllocate) return;
  const bool is_root = collective.root == rank();
  bool needs_input = collective.count != 0 && kind != OpKind::kBroadcast && (kind != OpKind::kScatter || is_root);
  bool needs_output = collective.count != 0 && ((kind != OpKind::kReduce && kind != OpKind::kGather) || is_root);
  if (!collective.counts.empty()) {
    const bool has_part = collective.counts[static_cast<std::size_t>(rank())] != 0;
    if (kind == OpKind::kAllGather) needs_input = has_part;
    if (kind == OpKind::kReduceScatter) needs_output = has_part;
    if (kind == OpKind::kAllToAll)
      needs_output = std::ranges::any_of(collective.recv_counts, [](auto n) { return n != 0; });
  }
  LS_REQUIRE((!needs_input || collective.input != nullptr) && (!needs_output || collective.output != nullptr), who(),
             ": ", name_of(kind), " of ", collective.count, " elements was given a null buffer");
  LS_REQUIRE(kind != OpKind::kAllToAll || collective.count == 0 || collective.input != collective.output, who(),
             ": all_to_all can't work in place; give it another output");
}

Deadline Communicator::begin(Collective& collective, const OpOptions& options) {
  require_usable();
  collective.label = options.label;
  check(collective);
  collective.sequence = ++sequence_;
  recorder_->started(collective);
  return Deadline::roughly_after(options.timeout.value_or(options_.timeout));
}

void Communicator::run(Collective&& collective, const OpOptions& options) {
  const Deadline deadline = begin(collective, options);
  try {
    backend_->run(collective, deadline);
  } catch (const Error&) {
    fail();
  }
  recorder_->finished(collective.sequence);
}

Work Communicator::run_async(Collective&& collective, const OpOptions& options) {
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

// ---- messages ----

Deadline Communicator::begin(Message& message, const OpOptions& options) {
  require_usable();
  message.label = options.label;
  const bool sends = message.kind == OpKind::kSend;
  const bool any = !sends && message.peer == kAnySource;
  LS_REQUIRE(any || (message.peer >= 0 && message.peer < world_size()), who(), ": ", name_of(message.kind), ": ",
             sends ? "destination " : "source ", message.peer, " is not a rank of a group of ", world_size());
  LS_REQUIRE(message.tag >= 0, who(), ": ", name_of(message.kind), ": tag ", message.tag, "; expected 0 or more");
  LS_REQUIRE(message.count == 0 || message.buffer != nullptr, who(), ": ", name_of(message.kind), " of ", message.count,
             " elements was given a null buffer");
  message.id = ++messages_;
  recorder_->started(message);
  const Deadline deadline = Deadline::roughly_after(options.timeout.value_or(options_.timeout));
  try {
    backend_->start(message, deadline);
  } catch (const Error&) {
    fail();
  }
  return deadline;
}

bool Communicator::test_message(std::uint64_t id, int& source) {
  require_usable();
  try {
    if (!backend_->test_message(id, source)) return false;
  } catch (const Error&) {
    fail();
  }
  recorder_->finished_message(id);
  return true;
}

int Communicator::wait_message(std::uint64_t id, Deadline deadline) {
  require_usable();
  try {
    const int source = backend_->wait_message(id, deadline);
    recorder_->finished_message(id);
    return source;
  } catch (const Error&) {
    fail();
  }
}

// ---- the rest ----

void Communicator::progress() {
  require_usable();
  try {
    if (backend_->test(sequence_) && sequence_ != 0) recorder_->finished(sequence_);
  } catch (const Error&) {
    fail();
  }
}

void Communicator::look_after(std::span<const int> ranks) {
  require_usable();
  int gone = -1;
  try {
    gone = backend_->look_after(ranks);
  } catch (const Error&) {
    fail();
  }
  if (gone < 0) return;
  throw PeerError(
      base::cat(who(), ": rank ", gone,
                backend_->last_seen(gone).left ? " left the group" : " died (its process has ended)",
                " and will not come to a group of its ranks; look at that rank's own output for the reason"),
      gone);
}

void Communicator::abort(std::string_view cause) noexcept { backend_->abort(cause); }

void Communicator::end(std::string_view cause) noexcept {
  if (!first_cause_.empty()) return;
  try {
    throw AbortedError(std::string(cause));
  } catch (const Error&) {
    try {
      fail();
    } catch (const Error&) {  // That is for the caller to say.
    }
  }
}

void Communicator::require_usable() const {
  if (first_cause_.empty()) return;
  throw AbortedError(
      base::cat(who(), ": the group can't be used any more, build a new one; it failed first with: ", first_cause_));
}

void Communicator::fail() {
  try {
    throw;
  } catch (const std::exception& error) {
    first_cause_ = error.what();
    // Where the failure is this rank's alone (memory, say), peers must not wait for it.
    backend_->abort(first_cause_);
    // The caller's buffers are the caller's again.
    backend_->close();
    if (!options_.dump_directory.empty())
      recorder_->dump(options_.dump_directory, options_.name, *backend_, first_cause_);
    throw;
  }
}

// ---- Work ----

Work::Work(std::shared_ptr<Communicator> communicator, const Message& message, Deadline deadline)
    : communicator_(std::move(communicator)),
      sequence_(message.id),
      deadline_(deadline),
      is_message_(true),
      asked_peer_(message.peer) {
  if (asked_peer_ == kAnySource) source_ = std::make_shared<int>(-1);
}

void Work::complete(int source) {
  is_complete_ = true;
  peer_ = asked_peer_;
  if (asked_peer_ != kAnySource) return;
  if (source >= 0) *source_ = source;
  peer_ = *source_;
}

bool Work::done() {
  if (communicator_ == nullptr || is_complete_) return true;
  if (!is_message_) return communicator_->test(sequence_);
  int source = -1;
  if (!communicator_->test_message(sequence_, source)) return false;
  complete(source);
  return true;
}

void Work::wait() {
  if (communicator_ == nullptr || is_complete_) return;
  if (!is_message_) return communicator_->wait(sequence_, deadline_);
  complete(communicator_->wait_message(sequence_, deadline_));
}

}  // namespace lockstep
