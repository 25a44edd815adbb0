#include "tests/support/random_training.h"

#include <algorithm>
#include <optional>
#include <sstream>

#include <torch/torch.h>

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/ddp/distributed_data_parallel.h"

namespace lockstep::support {
namespace {

at::Tensor copy_of(const at::Tensor& tensor) { return tensor.defined() ? tensor.detach().clone() : at::Tensor(); }

std::vector<at::Tensor> copies_of(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> copies;
  for (const at::Tensor& tensor : tensors) copies.push_back(copy_of(tensor));
  return copies;
}

/// One rank's module and optimizer, and what happens to them alike with DDP and without.
class Replica {
 public:
  Replica(const GraphSpec& spec, int rank, int salt) : spec_(spec), rank_(rank), graph_(spec, salt) {
    if (spec.adam) {
      optimizer_ =
          std::make_unique<torch::optim::Adam>(graph_->unique_parameters(), torch::optim::AdamOptions(0.02).eps(1e-2));
    } else {
      optimizer_ = std::make_unique<torch::optim::SGD>(graph_->unique_parameters(),
                                                       torch::optim::SGDOptions(0.1).momentum(0.8).weight_decay(0.01));
    }
  }

  RandomGraph& graph() noexcept { return graph_; }
  int rank() const noexcept { return rank_; }
  int steps() const { return spec_.inputs_of.empty() ? spec_.steps : spec_.inputs_of[static_cast<std::size_t>(rank_)]; }

  void begin_step(int step) {
    record_.steps.emplace_back();
    for (const auto& [at_step, layer] : spec_.toggles) {
      if (at_step == step) graph_->toggle(layer);
    }
    switch (spec_.clearing) {
      case Clearing::kNot: return;
      case Clearing::kZero: return optimizer_->zero_grad();
      case Clearing::kNone: return graph_->zero_grad(/*set_to_none=*/true);
      case Clearing::kReplaced:
        for (at::Tensor parameter : graph_->unique_parameters()) {
          if (parameter.grad().defined()) parameter.mutable_grad() = at::zeros_like(parameter.grad());
        }
    }
  }
  template <typename Forward>
  at::Tensor loss(const Forward& forward, int step, int micro) {
    const Position position{rank_, step, micro};
    return random_loss(spec_, forward(random_input(spec_, position), position));
  }
  void note_loss(const at::Tensor& loss) { record_.steps.back().losses.push_back(loss.item<double>()); }
  void end_step() {
    StepRecord& record = record_.steps.back();
    for (const at::Tensor& parameter : graph_->unique_parameters())
      record.gradients.push_back(copy_of(parameter.grad()));
    optimizer_->step();
    note_state(record);
  }
  TrainingRecord end() {
    note_state(record_.end);
    return std::move(record_);
  }

 private:
  void note_state(StepRecord& record) {
    record.parameters = copies_of(graph_->unique_parameters());
    record.buffers = copies_of(graph_->buffers());
  }

  const GraphSpec& spec_;
  int rank_;
  RandomGraph graph_;
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
  TrainingRecord record_;
};

/// Parts of the average, added up.
class AveragingHook final : public CommHook {
 public:
  std::string name() const override { return "averaging"; }
  Work start(ProcessGroup& group, const GradientBucket& bucket) override {
    const at::NoGradGuard no_grad;
    at::Tensor buffer = bucket.buffer;
    buffer.mul_(bucket.factor);
    return group.all_reduce_async(buffer, ReduceOp::kSum);
  }
};

DdpOptions options_of(const GraphSpec& spec, const RandomGraphImpl& graph) {
  DdpOptions options;
  options.bucket_cap_bytes = spec.bucket_cap_bytes;
  options.first_bucket_bytes = spec.first_bucket_bytes;
  options.broadcast_buffers = spec.broadcast_buffers;
  options.find_unused_parameters = spec.mode == GraphSpec::Mode::kFindUnused;
  options.static_graph = spec.mode == GraphSpec::Mode::kStatic;
  options.init_sync = spec.init_sync;
  for (std::size_t i = 0; i < graph.names().size(); ++i) {
    if (graph.ignored()[i]) options.ignored.push_back(graph.names()[i]);
  }
  return options;
}

}  // namespace

TrainingRecord train_random_graph(const GraphSpec& spec, const std::shared_ptr<ProcessGroup>& group) {
  const int rank = group->rank();
  Replica replica(spec, rank, spec.init_sync ? rank : 0);
  DistributedDataParallel ddp(replica.graph(), group, options_of(spec, *replica.graph()));
  if (spec.own_hook) ddp.register_comm_hook(std::make_shared<AveragingHook>());
  const auto forward = [&](const at::Tensor& x, const Position& position) { return ddp.forward(x, position); };
  const auto step = [&](int number) {
    replica.begin_step(number);
    int micro = 0;
    for (const bool synchronises : spec.synchronises) {
      std::optional<NoSyncGuard> guard;
      if (!synchronises) guard.emplace(ddp.engine());
      at::Tensor loss = at::zeros({}, at::kDouble);
      for (int i = 0; i < spec.forwards; ++i) loss = loss + replica.loss(forward, number, micro++);
      if (synchronises && spec.weighs_samples) ddp.average_over_samples(spec.samples_of(rank, number));
      loss.backward();
      replica.note_loss(loss);
    }
    replica.end_step();
    if (!spec.evaluates) return;
    const at::NoGradGuard no_grad;
    for (int i = 0; i <= rank % 2; ++i) replica.note_loss(replica.loss(forward, number, micro));
  };
  const auto loop = [&] {
    for (int number = 0; number < replica.steps(); ++number) step(number);
  };
  if (spec.inputs_of.empty()) {
    loop();
  } else {
    ddp.join(loop, {.divide_by_initial_world_size = spec.divide_by_world});
  }
  return replica.end();
}

namespace {

/// What DDP does for the ranks, done by hand.
class Alone {
 public:
  explicit Alone(const GraphSpec& spec) : spec_(spec) {
    for (int rank = 0; rank < spec.world; ++rank) {
      replicas_.push_back(std::make_unique<Replica>(spec, rank, spec.init_sync ? rank : 0));
      active_.push_back(replicas_.back().get());
    }
    copy_parameters(*replicas_[0]);
    copy_buffers(*replicas_[0]);
    give_zeros();
    used_.assign(replicas_[0]->graph()->unique_parameters().size(), false);
  }

  std::vector<TrainingRecord> train() {
    Replica* last = nullptr;
    for (int number = 0; number < spec_.steps; ++number) {
      std::erase_if(active_, [number](Replica* replica) { return replica->steps() <= number; });
      if (active_.empty()) break;
      last = active_.back();
      step(number);
    }
    if (!spec_.inputs_of.empty() && last != nullptr) {
      copy_parameters(*last);
      copy_buffers(*last);
    }
    std::vector<TrainingRecord> records;
    for (const auto& replica : replicas_) records.push_back(replica->end());
    return records;
  }

 private:
  void step(int number) {
    for (Replica* replica : active_) replica->begin_step(number);
    if (std::ranges::any_of(spec_.toggles, [number](const auto& toggle) { return toggle.first == number; }))
      give_zeros();
    int micro = 0;
    for (const bool synchronises : spec_.synchronises) {
      std::vector<at::Tensor> losses(active_.size(), at::zeros({}, at::kDouble));
      for (int i = 0; i < spec_.forwards; ++i, ++micro) {
        if (synchronises && spec_.broadcast_buffers) copy_buffers(*active_[0]);
        for (std::size_t k = 0; k < active_.size(); ++k) losses[k] = losses[k] + loss(*active_[k], number, micro);
      }
      for (std::size_t k = 0; k < active_.size(); ++k) {
        accumulate(*active_[k], losses[k]);
        active_[k]->note_loss(losses[k]);
      }
      if (synchronises) average(number);
    }
    for (Replica* replica : active_) replica->end_step();
    if (!spec_.evaluates) return;
    const at::NoGradGuard no_grad;
    if (spec_.broadcast_buffers) copy_buffers(*active_[0]);
    for (Replica* replica : active_) {
      for (int i = 0; i <= replica->rank() % 2; ++i) replica->note_loss(loss(*replica, number, micro));
    }
  }

  static at::Tensor loss(Replica& replica, int number, int micro) {
    return replica.loss([&](const auto& x, const auto& position) { return replica.graph()->forward(x, position); },
                        number, micro);
  }

  /// Adds the gradients of `loss`, and notes which parameters have any.
  void accumulate(Replica& replica, const at::Tensor& loss) {
    std::vector<at::Tensor> before;
    for (at::Tensor parameter : replica.graph()->unique_parameters()) {
      before.push_back(parameter.grad());
      parameter.mutable_grad() = at::Tensor();
    }
    loss.backward();
    for (std::size_t i = 0; i < before.size(); ++i) {
      at::Tensor parameter = replica.graph()->unique_parameters()[i];
      if (!parameter.grad().defined()) {
        parameter.mutable_grad() = before[i];
        continue;
      }
      used_[i] = true;
      if (before[i].defined()) parameter.mutable_grad() = before[i] + parameter.grad();
    }
  }

  double weight_of(const Replica& replica, int number) const {
    if (!spec_.weighs_samples) {
      const bool all = spec_.inputs_of.empty() || spec_.divide_by_world;
      return 1.0 / static_cast<double>(all ? replicas_.size() : active_.size());
    }
    double total = 0;
    for (const Replica* each : active_) total += spec_.samples_of(each->rank(), number);
    return spec_.samples_of(replica.rank(), number) / total;
  }

  void average(int number) {
    for (std::size_t i = 0; i < used_.size(); ++i) {
      if (!used_[i] || ignored(i)) continue;
      used_[i] = false;
      const at::Tensor sum = at::zeros_like(active_[0]->graph()->unique_parameters()[i]);
      for (Replica* replica : active_) {
        const at::Tensor& gradient = replica->graph()->unique_parameters()[i].grad();
        if (gradient.defined()) sum.detach().add_(gradient, weight_of(*replica, number));
      }
      for (Replica* replica : active_) {
        at::Tensor parameter = replica->graph()->unique_parameters()[i];
        parameter.mutable_grad() = sum.detach().clone();
      }
    }
  }

  /// Where no parameter may go unused, DDP gives each a gradient.
  void give_zeros() {
    if (spec_.mode != GraphSpec::Mode::kPlain) return;
    for (Replica* replica : active_) {
      const auto& parameters = replica->graph()->unique_parameters();
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        at::Tensor parameter = parameters[i];
        if (ignored(i) || !parameter.requires_grad() || parameter.grad().defined()) continue;
        parameter.mutable_grad() = at::zeros_like(parameter).detach();
      }
    }
  }

  bool ignored(std::size_t i) const { return replicas_[0]->graph()->ignored()[i]; }

  void copy_parameters(Replica& from) {
    const at::NoGradGuard no_grad;
    for (const auto& replica : replicas_) {
      const auto& parameters = replica->graph()->unique_parameters();
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        if (!ignored(i)) at::Tensor(parameters[i]).copy_(from.graph()->unique_parameters()[i]);
      }
    }
  }
  void copy_buffers(Replica& from) {
    for (const auto& replica : replicas_) {
      const auto buffers = replica->graph()->buffers();
      for (std::size_t i = 0; i < buffers.size(); ++i) buffers[i].copy_(from.graph()->buffers()[i]);
    }
  }

  const GraphSpec& spec_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  std::vector<Replica*> active_;
  std::vector<bool> used_;  // By any rank since the last average.
};

/// Sums over ranks are added in another order; Adam divides by small numbers. Layers of float32 lend their rounding to
/// everything else.
double bound_of(const GraphSpec& spec) {
  const auto is_float = [](const LayerSpec& layer) { return layer.kind == LayerSpec::Kind::kFloat; };
  return std::ranges::any_of(spec.layers, is_float) ? 1e-4 : 1e-10;
}

std::string text_of(const at::Tensor& tensor) {
  if (!tensor.defined()) return "absent";
  std::ostringstream text;
  text.precision(17);
  const at::Tensor flat = tensor.to(at::kDouble).reshape({-1});
  for (std::int64_t i = 0; i < flat.numel(); ++i) text << ' ' << flat[i].item<double>();
  return text.str();
}

std::string first_difference(const char* what, const std::vector<at::Tensor>& expected,
                             const std::vector<at::Tensor>& got, double bound) {
  LS_CHECK(expected.size() == got.size(), what, "s: ", got.size(), " instead of ", expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const at::Tensor& a = expected[i];
    const at::Tensor& b = got[i];
    const bool same = a.defined() && b.defined()
                          ? a.sizes() == b.sizes() && a.dtype() == b.dtype() && at::allclose(a, b, bound, bound)
                          : a.defined() == b.defined();
    if (!same) return base::cat(what, " ", i, ": ", text_of(b), "; expected ", text_of(a));
  }
  return {};
}

std::string difference(const StepRecord& expected, const StepRecord& got, double bound) {
  std::string text = first_difference("gradient of parameter", expected.gradients, got.gradients, bound);
  if (text.empty()) text = first_difference("parameter", expected.parameters, got.parameters, bound);
  if (text.empty()) text = first_difference("buffer", expected.buffers, got.buffers, bound);
  if (!text.empty()) return text;
  return first_difference("losses", {at::tensor(expected.losses, at::kDouble)}, {at::tensor(got.losses, at::kDouble)},
                          bound);
}

}  // namespace

std::vector<TrainingRecord> train_random_graph_alone(const GraphSpec& spec) { return Alone(spec).train(); }

std::string difference(const GraphSpec& spec, const TrainingRecord& expected, const TrainingRecord& got) {
  if (expected.steps.size() != got.steps.size()) {
    return base::cat(got.steps.size(), " steps instead of ", expected.steps.size());
  }
  for (std::size_t i = 0; i < expected.steps.size(); ++i) {
    const std::string text = difference(expected.steps[i], got.steps[i], bound_of(spec));
    if (!text.empty()) return base::cat("step ", i, ": ", text);
  }
  const std::string text = difference(expected.end, got.end, bound_of(spec));
  return text.empty() ? text : "in the end: " + text;
}

}  // namespace lockstep::support
