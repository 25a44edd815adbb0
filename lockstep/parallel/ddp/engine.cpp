#include "lockstep/parallel/ddp/engine.h"

#include <optional>
#include <utility>

#include <torch/nn/module.h>

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/ddp/bucket_optimizers.h"
#include "lockstep/parallel/ddp/reducer.h"
#include "lockstep/parallel/ddp/replicate.h"

namespace lockstep {

class DataParallelEngine::Impl {
 public:
  Impl(const torch::nn::Module& module, std::shared_ptr<ProcessGroup> group, DdpOptions options)
      : group_(std::move(group)), options_(std::move(options)) {
    LS_REQUIRE(group_ != nullptr, "DistributedDataParallel: group is null; make one with init_process_group()");
    state_ = collect_or_abort(module);
    if (options_.init_sync) {
      ddp::verify_state(*group_, state_, options_);
      ddp::broadcast_state(*group_, state_, 0);
    }
    if (options_.sentinel.enabled) sentinel_.emplace(group_, named_parameters(), options_.sentinel);
    make_reducer({});
    if (options_.broadcast_buffers && !state_.buffers.empty()) {
      buffers_.emplace(*group_, state_.buffers, "DDP: rank 0's buffers", ddp::Versions::kKept);
    }
  }

  /// `round`: of a join, or null.
  void before_forward(const std::vector<at::Tensor>& inputs, const JoinRound* round) {
    // A forward that is not trained on (evaluation) brings the buffers up to date once: they do not change in it, and
    // ranks may then evaluate different numbers of batches.
    const bool trains = at::GradMode::is_enabled();
    if (trains) {
      follow_frozen_parameters(round != nullptr);
      reducer_->before_forward(plan_of(round), inputs);
    }
    if (synchronise_ && buffers_ && (trains || buffers_may_differ_)) buffers_->run(round == nullptr ? 0 : round->root);
    buffers_may_differ_ = trains || (buffers_may_differ_ && !synchronise_);
    forward_start_ = Clock::now();
  }

  void after_forward(const std::vector<at::Tensor>& outputs) {
    if (!at::GradMode::is_enabled()) return;
    if (trace_ != nullptr) trace_->add({"forward", "compute", forward_start_, Clock::now()});
    reducer_->after_forward(outputs);
  }

  void average_over_samples(std::int64_t samples) {
    LS_REQUIRE(samples >= 0, "DistributedDataParallel::average_over_samples: ", samples, " samples");
    double total = static_cast<double>(samples);
    group_->communicator().all_reduce(&total, &total, 1, DType::kFloat64, ReduceOp::kSum,
                                      {.timeout = {}, .label = "DDP: samples of the step"});
    LS_REQUIRE(total > 0, "DistributedDataParallel::average_over_samples: no rank has a sample in this step");
    reducer_->set_factor(static_cast<double>(samples) / total);
  }

  void register_comm_hook(std::shared_ptr<CommHook> hook) {
    LS_REQUIRE(hook != nullptr, "DistributedDataParallel::register_comm_hook: the hook is null");
    LS_REQUIRE(comm_hook_ == nullptr && reducer_->statistics().steps == 0,
               "DistributedDataParallel::register_comm_hook: one hook, before the first backward; there is ",
               comm_hook_ == nullptr ? "none" : comm_hook_->name(), " after ", reducer_->statistics().steps,
               " steps; build a new DistributedDataParallel");
    ddp::verify_text(*group_, "communication hook", hook->name());
    comm_hook_ = std::move(hook);
    reducer_->set_comm_hook(comm_hook_);
  }

  void watch(const torch::optim::Optimizer& optimizer) {
    if (sentinel_) sentinel_->watch(optimizer);
  }

  void step_in_backward(torch::optim::Optimizer& optimizer) {
    LS_REQUIRE(!options_.find_unused_parameters && !options_.static_graph,
               "DistributedDataParallel::step_in_backward: with find_unused_parameters or static_graph it is known at "
               "the end of backward only which parameters must not step; call optimizer.step() behind it");
    LS_REQUIRE(!reducer_->in_backward(),
               "DistributedDataParallel::step_in_backward: a backward is running; call it between two steps");
    optimizers_.add(optimizer, state_.parameters);
    watch(optimizer);
  }

  const std::vector<Finding>& findings() const noexcept {
    static const std::vector<Finding> none;
    return sentinel_ ? sentinel_->findings() : none;
  }

  void set_trace(Trace* trace) noexcept {
    trace_ = trace;
    reducer_->set_trace(trace);
  }

  void shadow_forward(const JoinRound& round) {
    reducer_->before_forward(plan_of(&round));
    if (round.synchronises && buffers_) buffers_->run(round.root);
    reducer_->shadow_forward();
  }

  void after_join(const JoinRound& round) {
    ddp::broadcast_state(*group_, state_, round.last);
    // On ranks without an input they never did: all must say the same of the evaluation that follows.
    buffers_may_differ_ = false;
  }

  bool synchronise_ = true;
  ProcessGroup& group() noexcept { return *group_; }
  ddp::Reducer& reducer() noexcept { return *reducer_; }

 private:
  /// A rank that refuses its own module says so to the others: they wait for it already.
  ddp::ModuleState collect_or_abort(const torch::nn::Module& module) {
    try {
      return ddp::collect_state(module, options_.ignored);
    } catch (const UsageError& error) {
      group_->end(error.what());
      throw;
    }
  }

  ddp::StepPlan plan_of(const JoinRound* round) const {
    if (round == nullptr) return {.synchronise = synchronise_};
    return {.synchronise = round->synchronises,
            .root = round->root,
            .divisor = round->divisor,
            .everyone = round->active == group_->world_size(),
            .watched = false};
  }

  std::vector<bool> trained_set() const {
    std::vector<bool> trained;
    trained.reserve(state_.parameters.size());
    for (const auto& parameter : state_.parameters) trained.push_back(parameter.tensor.requires_grad());
    return trained;
  }

  Sentinel::NamedParameters named_parameters() const {
    Sentinel::NamedParameters parameters;
    for (const auto& [name, tensor] : state_.parameters) parameters.emplace_back(name, tensor);
    return parameters;
  }

  void make_reducer(DdpStatistics statistics) {
    trained_ = trained_set();
    std::vector<ddp::NamedTensor> parameters;
    for (const auto& parameter : state_.parameters) {
      if (parameter.tensor.requires_grad()) parameters.push_back(parameter);
    }
    reducer_ = ddp::Reducer::create(group_, std::move(parameters), options_, std::move(statistics));
    reducer_->set_trace(trace_);
    reducer_->set_sentinel(sentinel_ ? &*sentinel_ : nullptr);
    reducer_->set_optimizers(&optimizers_);
    if (comm_hook_) reducer_->set_comm_hook(comm_hook_);
  }

  /// Collective where parameters were frozen or unfrozen since the last forward: all ranks must have done the same.
  void follow_frozen_parameters(bool in_join) {
    if (!trained_changed()) return;
    LS_REQUIRE(!in_join, "DistributedDataParallel: a parameter was frozen or unfrozen inside join(); do it before");
    ddp::require_trained(state_);
    ddp::verify_state(*group_, state_, options_);
    make_reducer(reducer_->statistics());
  }

  bool trained_changed() const {
    for (std::size_t i = 0; i < trained_.size(); ++i) {
      if (state_.parameters[i].tensor.requires_grad() != trained_[i]) return true;
    }
    return false;
  }

  std::shared_ptr<ProcessGroup> group_;
  DdpOptions options_;
  ddp::ModuleState state_;
  std::vector<bool> trained_;  // Of each parameter, as the reducer has them.
  std::optional<Sentinel> sentinel_;
  ddp::BucketOptimizers optimizers_;
  std::shared_ptr<ddp::Reducer> reducer_;
  std::shared_ptr<CommHook> comm_hook_;
  std::optional<ddp::FlatBroadcast> buffers_;
  bool buffers_may_differ_ = false;
  Trace* trace_ = nullptr;
  Clock::time_point forward_start_;
};

DataParallelEngine::DataParallelEngine(torch::nn::Module& module, std::shared_ptr<ProcessGroup> group,
                                       DdpOptions options)
    : impl_(std::make_unique<Impl>(module, std::move(group), std::move(options))) {}
DataParallelEngine::~DataParallelEngine() = default;

void DataParallelEngine::before_forward(const std::vector<at::Tensor>& inputs) {
  const bool trains = at::GradMode::is_enabled();
  // Ranks without inputs do not shadow an evaluation: it takes the buffers as they are.
  if (!trains && inside_join()) return;
  impl_->before_forward(inputs, trains ? join_round(impl_->synchronise_) : nullptr);
}
void DataParallelEngine::after_forward(const std::vector<at::Tensor>& outputs) { impl_->after_forward(outputs); }
void DataParallelEngine::set_synchronise(bool on) noexcept { impl_->synchronise_ = on; }
bool DataParallelEngine::synchronises() const noexcept { return impl_->synchronise_; }
void DataParallelEngine::average_over_samples(std::int64_t samples) { impl_->average_over_samples(samples); }
void DataParallelEngine::register_comm_hook(std::shared_ptr<CommHook> hook) {
  impl_->register_comm_hook(std::move(hook));
}
void DataParallelEngine::watch(const torch::optim::Optimizer& optimizer) { impl_->watch(optimizer); }
void DataParallelEngine::step_in_backward(torch::optim::Optimizer& optimizer) { impl_->step_in_backward(optimizer); }
const std::vector<Finding>& DataParallelEngine::findings() const noexcept { return impl_->findings(); }
void DataParallelEngine::set_trace(Trace* trace) noexcept { impl_->set_trace(trace); }
const DdpStatistics& DataParallelEngine::stats() const noexcept { return impl_->reducer().statistics(); }

ProcessGroup& DataParallelEngine::join_group() { return impl_->group(); }
void DataParallelEngine::shadow_forward(const JoinRound& round) { impl_->shadow_forward(round); }
void DataParallelEngine::shadow_backward(const JoinRound&) { impl_->reducer().shadow_backward(); }
void DataParallelEngine::after_join(const JoinRound& round) { impl_->after_join(round); }

}  // namespace lockstep
