#include "lockstep/parallel/ddp/reducer.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/variable.h>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/log.h"

namespace lockstep::ddp {
namespace {

constexpr std::size_t kNamesInMessage = 10;

/// "'a', 'b' and 3 more" of the gradients that `is_named` picks.
template <typename Predicate>
std::pair<std::size_t, std::string> names_of(const std::vector<Gradient>& gradients, Predicate is_named) {
  std::string names;
  std::size_t count = 0;
  for (const Gradient& gradient : gradients) {
    if (!is_named(gradient) || ++count > kNamesInMessage) continue;
    names += base::cat(names.empty() ? "'" : ", '", gradient.parameter.name, "'");
  }
  if (count > kNamesInMessage) names += base::cat(" and ", count - kNamesInMessage, " more");
  return {count, names};
}

}  // namespace

std::shared_ptr<Reducer> Reducer::create(std::shared_ptr<ProcessGroup> group, std::vector<NamedTensor> parameters,
                                         const DdpOptions& options, DdpStatistics statistics) {
  std::shared_ptr<Reducer> reducer(
      new Reducer(std::move(group), std::move(parameters), options, std::move(statistics)));
  const auto on_gradient = [weak = reducer->weak_from_this()](std::size_t index, bool defined) {
    if (const auto self = weak.lock()) self->on_gradient(index, defined);
  };
  reducer->hooks_ = AccumulationHooks(reducer->gradients_, on_gradient);
  return reducer;
}

Reducer::Reducer(std::shared_ptr<ProcessGroup> group, std::vector<NamedTensor> parameters, const DdpOptions& options,
                 DdpStatistics statistics)
    : group_(std::move(group)), options_(options), statistics_(std::move(statistics)) {
  statistics_.rebuilt = false;
  if (options_.bucket_cap_bytes == 0) {
    options_.bucket_cap_bytes = default_bucket_cap(group_->communicator().backend_name());
  }
  gradients_.reserve(parameters.size());
  for (NamedTensor& parameter : parameters) {
    Gradient gradient;
    gradient.accumulator = torch::autograd::impl::grad_accumulator(parameter.tensor);
    gradient.parameter = std::move(parameter);
    accumulators_.emplace(gradient.accumulator.get(), gradients_.size());
    gradients_.push_back(std::move(gradient));
  }
  std::vector<std::size_t> order(gradients_.size());
  std::iota(order.rbegin(), order.rend(), std::size_t{0});  // Backward meets the last layer first.
  lay_out(plan(order));
  if (tolerates_unused()) {
    used_ = group_->allocate(static_cast<std::int64_t>(gradients_.size()), DType::kInt32,
                             OpOptions{.timeout = {}, .label = "DDP: used parameters"});
  }
}

Reducer::~Reducer() {
  // Only an exception leaves a backward like this. Peers wait for buckets that will not be launched, and operations
  // must end before the buckets that they read and write.
  if (in_backward_ || first_in_flight_ < next_bucket_) {
    group_->end(signed_text("it was destroyed in the middle of a backward"));
  }
}

// ---- one step ----

template <typename Call>
void Reducer::ask_sentinel(Call call) {
  if (sentinel_ == nullptr || !step_.watched) return;
  const auto start = Clock::now();
  call(*sentinel_);
  statistics_.sentinel += std::chrono::duration_cast<Duration>(Clock::now() - start);
}

void Reducer::before_forward(const StepPlan& plan, const std::vector<at::Tensor>& inputs) {
  if (in_backward_) {
    fail(
        "the backward before this forward did not come to its end (an exception left it), so the ranks are out of "
        "step; build a new process group and a new DistributedDataParallel");
  }
  end_is_queued_ = false;
  told_unaveraged_ = false;
  step_ = plan;
  ask_sentinel([&](Sentinel& sentinel) { sentinel.before_forward(inputs); });
  // A static graph is learnt before anything moves; the order of gradients without a fixed set of them says little.
  if (step_.synchronise && !statistics_.rebuilt && statistics_.steps > 0) adopt_order(arrivals_);
}

void Reducer::after_forward(const std::vector<at::Tensor>& outputs) {
  if (!step_.synchronise) return;
  if (!statistics_.rebuilt) adopt_order(predict_order(outputs, accumulators_));
  if (options_.find_unused_parameters && !options_.static_graph) {
    reached_.resize(gradients_.size(), false);
    for (const std::size_t index : reached_nodes(outputs, accumulators_)) reached_[index] = true;
  }
  for (const at::Tensor& output : outputs) {
    if (!output.requires_grad() || output.is_leaf()) continue;
    // Backwards may run inside of this one (activation checkpointing): its end is the one that counts.
    output.register_hook([weak = weak_from_this()](const at::Tensor&) {
      if (const auto self = weak.lock()) self->queue_end();
    });
  }
}

void Reducer::queue_end() {
  if (end_is_queued_) return;
  end_is_queued_ = true;
  backward_start_ = Clock::now();
  torch::autograd::Engine::get_default_engine().queue_callback([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr) return;
    self->end_is_queued_ = false;
    if (self->in_backward_) self->finish_backward();
  });
}

void Reducer::on_gradient(std::size_t index, bool defined) {
  Gradient& gradient = gradients_[index];
  // A checkpointed function did without the parameter this time. Not so in a static graph, which has learnt who is used
  // and does not ask again: there it counts as zero.
  const bool absent = !defined && options_.find_unused_parameters && !options_.static_graph;
  try {
    // One that is absent may stay without a gradient.
    if ((!absent || gradient.parameter.tensor.grad().defined()) && gradient.adopt()) ++statistics_.gradient_copies;
  } catch (const UsageError& error) {
    fail(error.what());
  }
  if (!absent) gradient.arrived_since_average = true;
  if (!step_.synchronise) {
    if (!std::exchange(told_unaveraged_, true)) {
      ask_sentinel([](Sentinel& sentinel) { sentinel.after_backward(false); });
    }
    return;
  }
  if (!in_backward_) begin_backward();
  if (!count_arrival(gradient)) return;
  arrivals_.push_back(index);
  if (absent) {
    mark_unused(gradient);
  } else {
    mark_ready(gradient);
  }
  if (failure_ || learns_graph()) return;
  const auto start = Clock::now();
  try {
    launch_complete_buckets();
    // The bytes move in whoever calls: this is where communication overlaps backward.
    progress();
  } catch (...) {
    // Thrown at the end of backward, where it is known whether this rank has a complaint of its own.
    failure_ = std::current_exception();
  }
  statistics_.last_in_hooks += std::chrono::duration_cast<Duration>(Clock::now() - start);
}

void Reducer::begin_backward() {
  in_backward_ = true;
  reset_buckets();
  if (sentinel_ != nullptr) sentinel_->before_backward();
  queue_end();
  for (std::size_t i = 0; i < gradients_.size(); ++i) {
    const bool never = options_.static_graph ? graph_is_known_ && expected_[i] == 0 : !reached_.empty() && !reached_[i];
    if (never) mark_unused(gradients_[i]);
  }
}

bool Reducer::count_arrival(Gradient& gradient) {
  ++gradient.arrivals;
  const auto index = static_cast<std::size_t>(&gradient - gradients_.data());
  if (learns_graph()) return gradient.arrivals == 1;
  if (options_.static_graph) {
    if (gradient.arrivals > expected_[index]) fail(changed_graph());
    return gradient.arrivals == expected_[index];
  }
  if (gradient.unused && gradient.arrivals == 1) {
    fail(base::cat("parameter '", gradient.parameter.name,
                   "' got a gradient although no output of forward depends on it; return every tensor that the loss "
                   "uses from forward, or leave find_unused_parameters off"));
  }
  if (gradient.ready) {
    fail(base::cat("parameter '", gradient.parameter.name,
                   "' got a gradient twice in one backward: a backward runs inside another (then set static_graph), or "
                   "the one before was left by an exception; neither can be averaged"));
  }
  return true;
}

void Reducer::mark_ready(Gradient& gradient) {
  gradient.ready = true;
  --buckets_[gradient.bucket].pending;
}

void Reducer::mark_unused(Gradient& gradient) {
  gradient.set_unused();
  --buckets_[gradient.bucket].pending;
}

void Reducer::finish_backward() {
  in_backward_ = false;
  settle_absent_gradients();
  try {
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    average(steps_in_backward());
  } catch (const std::exception& error) {
    // Communication has ended the group already; a hook has not, and its peers wait.
    group_->end(signed_text(error.what()));
    throw;
  }
  if (tolerates_unused()) settle_unused();
  record_step();
  ask_sentinel([](Sentinel& sentinel) { sentinel.after_backward(true); });
}

void Reducer::average(bool steps) {
  launch_complete_buckets();
  if (tolerates_unused() && !graph_is_known_) start_used_map();
  if (steps) ask_sentinel([](Sentinel& sentinel) { sentinel.before_step(); });
  wait_for_buckets(steps);
}

void Reducer::settle_absent_gradients() {
  if (options_.static_graph && graph_is_known_) {
    const auto as_learnt = [&](std::size_t i) { return gradients_[i].arrivals == expected_[i]; };
    for (std::size_t i = 0; i < gradients_.size(); ++i) {
      if (!as_learnt(i)) fail(changed_graph());
    }
    return;
  }
  if (!tolerates_unused()) {
    if (arrivals_.size() < gradients_.size()) fail(missing_gradients());
    return;
  }
  for (Gradient& gradient : gradients_) {
    // Reached, but the loss does not depend on it.
    if (!gradient.ready) mark_unused(gradient);
  }
  if (!learns_graph()) return;
  expected_.clear();
  for (const Gradient& gradient : gradients_) expected_.push_back(gradient.arrivals);
}

std::string Reducer::missing_gradients() const {
  const auto [missing, names] = names_of(gradients_, [](const Gradient& gradient) { return !gradient.ready; });
  return base::cat(
      missing, " of ", gradients_.size(), " parameters got no gradient in this backward: ", names,
      "; the loss must depend on every parameter: set find_unused_parameters (or static_graph, where it is "
      "the same in every step), leave unused ones out of the module, or freeze them "
      "(requires_grad_(false)); and no backward may run inside another");
}

std::string Reducer::changed_graph() const {
  const auto [count, names] = names_of(gradients_, [&](const Gradient& gradient) {
    return gradient.arrivals != expected_[static_cast<std::size_t>(&gradient - gradients_.data())];
  });
  return base::cat("the graph is not that of the first step, as static_graph promises: ", count, " of ",
                   gradients_.size(), " parameters get gradients more or less often than then: ", names,
                   "; use find_unused_parameters for graphs that change");
}

std::string Reducer::signed_text(const std::string& text) const {
  return base::cat("DistributedDataParallel rank ", group_->rank(), "/", group_->world_size(), " group ",
                   group_->communicator().name(), ": ", text);
}

void Reducer::fail(const std::string& text) {
  const std::string line = signed_text(text);
  in_backward_ = false;
  group_->end(line);
  throw UsageError(line);
}

}  // namespace lockstep::ddp
