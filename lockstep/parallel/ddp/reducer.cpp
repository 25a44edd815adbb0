#include "lockstep/parallel/ddp/reducer.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include <ATen/ATen.h>
#include <c10/util/strides.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/log.h"
#include "lockstep/parallel/group/dtype_map.h"

namespace lockstep::ddp {
namespace {

constexpr std::size_t kNamesInMessage = 10;

class GradientHook final : public torch::autograd::FunctionPostHook {
 public:
  explicit GradientHook(std::function<void()> call) : call_(std::move(call)) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                            const torch::autograd::variable_list&) override {
    call_();
    return outputs;
  }

 private:
  std::function<void()> call_;
};

/// A tensor in `memory` that autograd does not know as a view: optimizers detach gradients in place, which a view
/// refuses.
at::Tensor make_slot(const at::Tensor& memory, std::int64_t offset, const at::Tensor& parameter) {
  const at::NoGradGuard no_grad;
  at::Tensor slot = at::empty({0}, memory.options());
  // In the parameter's own layout where it has no holes, so that adding and stepping run over memory in order.
  if (parameter.is_non_overlapping_and_dense()) {
    return slot.set_(memory.storage(), offset, parameter.sizes(), parameter.strides());
  }
  return slot.set_(memory.storage(), offset, parameter.sizes(), c10::contiguous_strides(parameter.sizes()));
}

bool same_memory(const at::Tensor& a, const at::Tensor& b) {
  return a.layout() == at::kStrided && a.data_ptr() == b.data_ptr() && a.sizes() == b.sizes() &&
         a.strides() == b.strides();
}

}  // namespace

std::shared_ptr<Reducer> Reducer::create(std::shared_ptr<ProcessGroup> group, std::vector<NamedTensor> parameters,
                                         const DdpOptions& options) {
  std::shared_ptr<Reducer> reducer(new Reducer(std::move(group), std::move(parameters), options));
  reducer->add_hooks();
  return reducer;
}

Reducer::Reducer(std::shared_ptr<ProcessGroup> group, std::vector<NamedTensor> parameters, const DdpOptions& options)
    : group_(std::move(group)), options_(options) {
  gradients_.reserve(parameters.size());
  for (NamedTensor& parameter : parameters) {
    Gradient gradient;
    gradient.accumulator = torch::autograd::impl::grad_accumulator(parameter.tensor);
    gradient.parameter = std::move(parameter);
    gradients_.push_back(std::move(gradient));
  }
  std::vector<std::size_t> order(gradients_.size());
  std::iota(order.rbegin(), order.rend(), std::size_t{0});  // Backward meets the last layer first.
  lay_out(plan(order));
}

Reducer::~Reducer() {
  for (const Gradient& gradient : gradients_) {
    if (gradient.hook != 0) gradient.accumulator->del_post_hook(gradient.hook);
  }
}

void Reducer::add_hooks() {
  for (std::size_t i = 0; i < gradients_.size(); ++i) {
    auto call = [weak = weak_from_this(), i] {
      if (const auto self = weak.lock()) self->on_gradient(i);
    };
    gradients_[i].hook = gradients_[i].accumulator->add_post_hook(std::make_unique<GradientHook>(std::move(call)));
  }
}

std::vector<BucketSpec> Reducer::plan(std::span<const std::size_t> order) const {
  std::vector<ParameterSize> sizes;
  sizes.reserve(gradients_.size());
  for (const Gradient& gradient : gradients_) {
    const at::Tensor& tensor = gradient.parameter.tensor;
    sizes.push_back({tensor.numel(), group::from_torch(tensor.scalar_type()).value()});
  }
  return plan_buckets(sizes, order, {options_.first_bucket_bytes, options_.bucket_cap_bytes});
}

void Reducer::lay_out(const std::vector<BucketSpec>& plan) {
  std::vector<Bucket> buckets;
  statistics_.bucket_bytes.clear();
  for (const BucketSpec& spec : plan) {
    Bucket bucket;
    bucket.spec = spec;
    bucket.label = base::cat("bucket ", buckets.size(), ": ", gradients_[spec.parameters[0]].parameter.name,
                             spec.parameters.size() > 1 ? " .." : "");
    bucket.memory = group_->allocate(spec.numel, spec.dtype, {.timeout = {}, .label = bucket.label});
    for (std::size_t i = 0; i < spec.parameters.size(); ++i) {
      Gradient& gradient = gradients_[spec.parameters[i]];
      const at::Tensor& parameter = gradient.parameter.tensor;
      gradient.bucket = buckets.size();
      gradient.slot = make_slot(bucket.memory, spec.offsets[i], parameter);
      at::Tensor& grad = gradient.parameter.tensor.mutable_grad();
      if (grad.defined()) {
        const at::NoGradGuard no_grad;
        gradient.slot.copy_(grad);
      }
      grad = gradient.slot;
    }
    statistics_.bucket_bytes.push_back(spec.nbytes());
    buckets.push_back(std::move(bucket));
  }
  buckets_ = std::move(buckets);
}

void Reducer::before_forward(bool synchronise) {
  if (in_backward_) {
    fail(
        "the backward before this forward did not come to its end (an exception left it), so the ranks are out of "
        "step; build a new process group and a new DistributedDataParallel");
  }
  synchronise_ = synchronise;
  if (synchronise && !statistics_.rebuilt && statistics_.steps > 0) rebuild();
}

void Reducer::rebuild() {
  std::vector<std::int64_t> order(arrivals_.begin(), arrivals_.end());
  group_->communicator().broadcast(order.data(), order.size(), DType::kInt64, 0,
                                   {.timeout = {}, .label = "DDP: order of gradients"});
  std::vector<BucketSpec> current;
  for (const Bucket& bucket : buckets_) current.push_back(bucket.spec);
  const std::vector<BucketSpec> wanted = plan(std::vector<std::size_t>(order.begin(), order.end()));
  if (wanted != current) lay_out(wanted);
  statistics_.rebuilt = true;
  LS_LOG(kInfo, "DDP: ", buckets_.size(), " buckets in the order in which gradients arrive",
         wanted == current ? ", which is that of registration" : "");
}

void Reducer::on_gradient(std::size_t index) {
  Gradient& gradient = gradients_[index];
  adopt(gradient);
  if (!synchronise_) return;
  if (!in_backward_) begin_backward();
  if (gradient.ready) {
    fail(base::cat("parameter '", gradient.parameter.name,
                   "' got a gradient twice in one backward: a backward runs "
                   "inside another, or the one before was left by an exception; neither can be averaged"));
  }
  gradient.ready = true;
  arrivals_.push_back(index);
  --buckets_[gradient.bucket].pending;
  if (failure_) return;
  try {
    launch_complete_buckets();
    // The bytes move in whoever calls: this is where communication overlaps backward.
    if (next_bucket_ > 0) group_->progress();
  } catch (...) {
    // Thrown at the end of backward, where it is known whether this rank has a complaint of its own.
    failure_ = std::current_exception();
  }
}

void Reducer::adopt(Gradient& gradient) {
  at::Tensor& grad = gradient.parameter.tensor.mutable_grad();
  if (grad.is_same(gradient.slot)) return;
  const at::NoGradGuard no_grad;
  if (!grad.defined()) {
    gradient.slot.zero_();  // Backward came by with nothing to add: this rank's share of the average is zero.
  } else if (grad.layout() != at::kStrided) {
    fail(base::cat("the gradient of parameter '", gradient.parameter.name, "' is ", group::tensor_text(grad),
                   "; expected a dense one: use a dense layer (Embedding with sparse(false))"));
  } else if (!same_memory(grad, gradient.slot)) {
    gradient.slot.copy_(grad);
    ++statistics_.gradient_copies;
  }
  grad = gradient.slot;
}

void Reducer::begin_backward() {
  in_backward_ = true;
  failure_ = nullptr;
  next_bucket_ = 0;
  arrivals_.clear();
  for (Gradient& gradient : gradients_) gradient.ready = false;
  for (Bucket& bucket : buckets_) bucket.pending = bucket.spec.parameters.size();
  torch::autograd::Engine::get_default_engine().queue_callback([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->finish_backward();
  });
}

void Reducer::launch_complete_buckets() {
  // In index order on every rank, whatever order gradients arrive in.
  for (; next_bucket_ < buckets_.size() && buckets_[next_bucket_].pending == 0; ++next_bucket_) {
    Bucket& bucket = buckets_[next_bucket_];
    bucket.work = group_->all_reduce_async(bucket.memory, ReduceOp::kAvg, {.timeout = {}, .label = bucket.label});
  }
}

void Reducer::finish_backward() {
  in_backward_ = false;
  if (arrivals_.size() < gradients_.size()) fail(missing_gradients());
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  wait_for_buckets();
  ++statistics_.steps;
}

void Reducer::wait_for_buckets() {
  const auto start = Clock::now();
  for (Bucket& bucket : buckets_) std::exchange(bucket.work, Work()).wait();
  statistics_.last_backward_wait = std::chrono::duration_cast<Duration>(Clock::now() - start);
  statistics_.backward_wait += statistics_.last_backward_wait;
}

std::string Reducer::missing_gradients() const {
  std::string names;
  std::size_t missing = 0;
  for (const Gradient& gradient : gradients_) {
    if (gradient.ready || ++missing > kNamesInMessage) continue;
    names += base::cat(names.empty() ? "'" : ", '", gradient.parameter.name, "'");
  }
  if (missing > kNamesInMessage) names += base::cat(" and ", missing - kNamesInMessage, " more");
  return base::cat(
      missing, " of ", gradients_.size(), " parameters got no gradient in this backward: ", names,
      "; the loss must depend on every parameter: leave unused ones out of the module, or freeze them "
      "(requires_grad_(false)) before DistributedDataParallel is made; and no backward may run inside another");
}

void Reducer::fail(const std::string& text) {
  const std::string line = base::cat("DistributedDataParallel rank ", group_->rank(), "/", group_->world_size(),
                                     " group ", group_->communicator().name(), ": ", text);
  in_backward_ = false;
  group_->abort(line);
  throw UsageError(line);
}

}  // namespace lockstep::ddp
