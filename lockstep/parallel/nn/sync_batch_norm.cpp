// Forward: each rank's count, mean and M2 (the sum of squared distances from the mean) per channel are gathered, and
// every rank combines them in the same order (Chan, Golub, LeVeque 1979), so all have the same bits:
//
//   N = sum n_r     mean = sum n_r mean_r / N     M2 = sum M2_r + sum n_r (mean_r - mean)^2
//
// Backward, with x^ = (x - mean) / sqrt(var + eps) and sums over the global batch:
//
//   dx = weight / sqrt(var + eps) * (g - sum(g) / N - x^ * sum(g x^) / N)
//
// The passes over the batch are libtorch's own kernels for batch norm with given statistics: y = scale x + shift per
// channel in one pass, and sum(g), sum(g x^) in another. dx takes three more.
#include "lockstep/parallel/nn/sync_batch_norm.h"

#include <ostream>
#include <tuple>
#include <utility>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/nn/modules/batchnorm.h>

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/group/dtype_map.h"

namespace lockstep {
namespace {

using Group = std::shared_ptr<ProcessGroup>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Of the global batch, per channel in float64.
struct Statistics {
  at::Tensor mean;
  at::Tensor m2;  ///< sum of squared distances from the mean
  std::int64_t count = 0;

  at::Tensor variance() const { return m2 / static_cast<double>(count); }
};

Statistics gather_statistics(const at::Tensor& input, ProcessGroup& group) {
  const std::int64_t channels = input.size(1);
  const auto options = input.options().dtype(at::kDouble);
  at::Tensor mine = at::zeros({2 * channels + 1}, options);
  if (input.numel() > 0) {
    const auto count = static_cast<double>(input.numel() / channels);
    const auto [mean, variance] = at::batch_norm_update_stats(input, {}, {}, 0);
    mine[0] = count;
    mine.narrow(0, 1, channels).copy_(mean);
    mine.narrow(0, 1 + channels, channels).copy_(variance).mul_(count);
  }
  at::Tensor all = at::empty({group.world_size(), 2 * channels + 1}, options);
  group.all_gather(all, mine, OpOptions{.timeout = {}, .label = "SyncBatchNorm"});

  const at::Tensor counts = all.narrow(1, 0, 1);
  const at::Tensor means = all.narrow(1, 1, channels);
  const auto total = counts.sum().item<double>();
  Statistics statistics{.mean = (counts * means).sum(0) / total, .m2 = {}, .count = static_cast<std::int64_t>(total)};
  statistics.m2 = all.narrow(1, 1 + channels, channels).sum(0) + (counts * (means - statistics.mean).square()).sum(0);
  return statistics;
}

/// scale[c] * input[:, c] + shift[c], in one pass.
at::Tensor affine_per_channel(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& shift) {
  return std::get<0>(at::native_batch_norm(input, scale, shift, at::zeros_like(scale), at::ones_like(scale),
                                           /*training=*/false, /*momentum=*/0, /*eps=*/0));
}

/// What backward needs beside tensors.
struct Global final : torch::CustomClassHolder {
  Global(Group members, std::int64_t values, double epsilon) : group(std::move(members)), count(values), eps(epsilon) {}
  Group group;
  std::int64_t count;
  double eps;
};

class Normalise : public torch::autograd::Function<Normalise> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& weight,
                            const at::Tensor& bias, const Statistics& statistics,
                            const c10::intrusive_ptr<Global>& global) {
    const at::Tensor mean = statistics.mean.to(input.scalar_type());
    const at::Tensor variance = statistics.variance().to(input.scalar_type());
    context->save_for_backward({input, weight, mean, variance});
    context->saved_data["global"] = c10::IValue::make_capsule(global);
    if (input.numel() == 0) return at::empty_like(input);
    return std::get<0>(at::native_batch_norm(input, weight, bias, mean, variance, false, 0, global->eps));
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    LS_REQUIRE(
        !at::GradMode::is_enabled(),
        "SyncBatchNorm: backward with create_graph; gradients of gradients are not defined over ranks: set_group("
        "nullptr) normalises by this rank's batch");
    const auto global = c10::static_intrusive_pointer_cast<Global>(context->saved_data["global"].toCapsule());
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& input = saved[0];
    const at::Tensor gradient = gradients[0].contiguous(input.suggest_memory_format());

    at::Tensor of_weight = at::zeros_like(saved[1]);
    at::Tensor of_bias = at::zeros_like(saved[1]);
    if (input.numel() > 0) {
      std::tie(std::ignore, of_weight, of_bias) = at::native_batch_norm_backward(
          gradient, input, {}, saved[2], saved[3], {}, {}, /*train=*/false, global->eps, {false, true, true});
    }
    at::Tensor of_input;
    if (context->needs_input_grad(0)) {
      at::Tensor sums = at::stack({of_bias, of_weight}).to(at::kDouble);
      global->group->all_reduce(sums, ReduceOp::kSum, {.timeout = {}, .label = "SyncBatchNorm gradient"});
      of_input = input_gradient(saved, gradient, sums / static_cast<double>(global->count), global->eps);
    }
    return {of_input, of_weight, of_bias, at::Tensor(), at::Tensor()};
  }

 private:
  /// averages: of g and of g x^ over the global batch, [2, channels].
  static at::Tensor input_gradient(const variable_list& saved, const at::Tensor& gradient, const at::Tensor& averages,
                                   double eps) {
    const at::Tensor& input = saved[0];
    if (input.numel() == 0) return at::zeros_like(input);
    const auto type = input.scalar_type();
    const at::Tensor inverse = (saved[3].to(at::kDouble) + eps).rsqrt();
    const at::Tensor scale = saved[1].to(at::kDouble) * inverse;
    std::vector<std::int64_t> shape(static_cast<std::size_t>(input.dim()), 1);
    shape[1] = input.size(1);
    // Distances from the mean come first: scale x + shift would cancel where the mean is large.
    at::Tensor result = input - saved[2].view(shape);
    at::addcmul_out(result, gradient, result, (-inverse * averages[1]).to(type).view(shape));
    return affine_per_channel(result, scale.to(type), (-scale * averages[0]).to(type));
  }
};

}  // namespace

// ---- the module ----

SyncBatchNormImpl::SyncBatchNormImpl(const torch::nn::BatchNormOptions& options_, std::shared_ptr<ProcessGroup> group)
    : options(options_), group_(std::move(group)) {
  SyncBatchNormImpl::reset();
}

SyncBatchNormImpl::SyncBatchNormImpl(const torch::nn::BatchNorm1dImpl& norm, std::shared_ptr<ProcessGroup> group)
    : options(norm.options), group_(std::move(group)) {
  share(norm);
}

SyncBatchNormImpl::SyncBatchNormImpl(const torch::nn::BatchNorm2dImpl& norm, std::shared_ptr<ProcessGroup> group)
    : options(norm.options), group_(std::move(group)) {
  share(norm);
}

SyncBatchNormImpl::SyncBatchNormImpl(const torch::nn::BatchNorm3dImpl& norm, std::shared_ptr<ProcessGroup> group)
    : options(norm.options), group_(std::move(group)) {
  share(norm);
}

template <typename Norm>
void SyncBatchNormImpl::share(const Norm& norm) {
  const auto trained = [](const at::Tensor& tensor) { return tensor.defined() && tensor.requires_grad(); };
  weight = register_parameter("weight", norm.weight, trained(norm.weight));
  bias = register_parameter("bias", norm.bias, trained(norm.bias));
  running_mean = register_buffer("running_mean", norm.running_mean);
  running_var = register_buffer("running_var", norm.running_var);
  num_batches_tracked = register_buffer("num_batches_tracked", norm.num_batches_tracked);
  train(norm.is_training());
}

void SyncBatchNormImpl::reset() {
  const std::int64_t channels = options.num_features();
  const auto parameter = [&](double value) { return options.affine() ? at::full({channels}, value) : at::Tensor(); };
  weight = register_parameter("weight", parameter(1), options.affine());
  bias = register_parameter("bias", parameter(0), options.affine());
  const bool tracks = options.track_running_stats();
  running_mean = register_buffer("running_mean", tracks ? at::zeros({channels}) : at::Tensor());
  running_var = register_buffer("running_var", tracks ? at::ones({channels}) : at::Tensor());
  num_batches_tracked = register_buffer("num_batches_tracked", tracks ? at::zeros({}, at::kLong) : at::Tensor());
}

/// One more batch; returns the weight that its statistics have in the running ones.
double SyncBatchNormImpl::count_batch() {
  if (!is_training() || !num_batches_tracked.defined()) return options.momentum().value_or(0);
  const at::NoGradGuard no_grad;
  num_batches_tracked += 1;
  return options.momentum() ? *options.momentum() : 1 / num_batches_tracked.item<double>();
}

at::Tensor SyncBatchNormImpl::forward(const at::Tensor& input) {
  LS_REQUIRE(at::isFloatingType(input.scalar_type()), "SyncBatchNorm: input is ", group::tensor_text(input),
             "; expected a floating dtype");
  LS_REQUIRE(input.dim() >= 2 && input.size(1) == options.num_features(), "SyncBatchNorm: input is ",
             group::tensor_text(input), "; expected [batch, ", options.num_features(), ", ...]");
  if (is_training() && group_ != nullptr && group_->world_size() > 1) return forward_synchronised(input);

  const bool uses_batch = is_training() || !running_mean.defined();
  LS_REQUIRE(!uses_batch || input.numel() != input.size(1), "SyncBatchNorm: input is ", group::tensor_text(input),
             ", one value per channel; expected more in training");
  const double momentum = count_batch();
  return at::batch_norm(input, weight, bias, running_mean, running_var, uses_batch, momentum, options.eps(),
                        at::globalContext().userEnabledCuDNN());
}

at::Tensor SyncBatchNormImpl::forward_synchronised(const at::Tensor& input) {
  const auto type = input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor values = input.to(type).contiguous(input.suggest_memory_format());
  const Statistics statistics = gather_statistics(values.detach(), *group_);
  LS_REQUIRE(statistics.count > 1, "SyncBatchNorm: rank ", group_->rank(), "/", group_->world_size(), " group ",
             group_->name(), ": ", statistics.count, " values per channel on all ranks together; expected more in ",
             "training");
  const double momentum = count_batch();
  if (running_mean.defined()) {
    const at::NoGradGuard no_grad;
    const at::Tensor unbiased = statistics.m2 / static_cast<double>(statistics.count - 1);
    running_mean.mul_(1 - momentum).add_(statistics.mean.to(running_mean.scalar_type()), momentum);
    running_var.mul_(1 - momentum).add_(unbiased.to(running_var.scalar_type()), momentum);
  }
  const auto plain = [&](double value) { return at::full({options.num_features()}, value, values.options()); };
  const auto global = c10::make_intrusive<Global>(group_, statistics.count, options.eps());
  return Normalise::apply(values, weight.defined() ? weight.to(type) : plain(1),
                          bias.defined() ? bias.to(type) : plain(0), statistics, global)
      .to(input.scalar_type());
}

void SyncBatchNormImpl::pretty_print(std::ostream& stream) const {
  stream << "lockstep::SyncBatchNorm(" << options.num_features() << ", eps=" << options.eps() << ", momentum=";
  options.momentum() ? stream << *options.momentum() : stream << "none";
  stream << ", affine=" << (options.affine() ? "true" : "false")
         << ", track_running_stats=" << (options.track_running_stats() ? "true" : "false")
         << ", group=" << (group_ ? group_->name() : "none") << ")";
}

}  // namespace lockstep
