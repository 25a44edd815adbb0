#include "lockstep/parallel/ddp/bucket_optimizers.h"

#include <algorithm>
#include <unordered_set>
#include <utility>
#include <vector>

#include <torch/optim/lbfgs.h>
#include <torch/optim/optimizer.h>

#include "lockstep/core/base/check.h"

namespace lockstep::ddp {
namespace {

using Identities = std::unordered_set<const c10::TensorImpl*>;

/// While it lives, an optimizer holds no more than some of its parameters, in groups as before: state and settings are
/// found by parameter and group, so it steps on these as it would among all.
class Narrowed {
 public:
  Narrowed(torch::optim::Optimizer& optimizer, const Identities& wanted) : optimizer_(optimizer) {
    for (const torch::optim::OptimizerParamGroup& group : optimizer_.param_groups()) {
      std::vector<at::Tensor>& some = others_.emplace_back();
      for (const at::Tensor& parameter : group.params()) {
        if (wanted.count(parameter.unsafeGetTensorImpl()) != 0) some.push_back(parameter);
      }
      held_.insert(held_.end(), some.begin(), some.end());
    }
    exchange();
  }
  ~Narrowed() { exchange(); }
  Narrowed(const Narrowed&) = delete;
  Narrowed& operator=(const Narrowed&) = delete;

  const std::vector<at::Tensor>& held() const noexcept { return held_; }

 private:
  void exchange() noexcept {
    for (std::size_t i = 0; i < others_.size(); ++i) std::swap(optimizer_.param_groups()[i].params(), others_[i]);
  }

  torch::optim::Optimizer& optimizer_;
  std::vector<std::vector<at::Tensor>> others_;  // Of each group: some, then, while this lives, all.
  std::vector<at::Tensor> held_;
};

}  // namespace

void BucketOptimizers::add(torch::optim::Optimizer& optimizer, const std::vector<NamedTensor>& averaged) {
  LS_REQUIRE(std::ranges::find(optimizers_, &optimizer) == optimizers_.end(),
             "DistributedDataParallel::step_in_backward: this optimizer steps in backward already");
  LS_REQUIRE(dynamic_cast<const torch::optim::LBFGS*>(&optimizer) == nullptr,
             "DistributedDataParallel::step_in_backward: LBFGS needs all gradients at once; call its step() instead");
  Identities known;
  for (const NamedTensor& parameter : averaged) known.insert(parameter.tensor.unsafeGetTensorImpl());
  std::size_t others = 0;
  std::size_t total = 0;
  for (const auto& group : optimizer.param_groups()) {
    total += group.params().size();
    others += static_cast<std::size_t>(std::ranges::count_if(
        group.params(), [&](const at::Tensor& tensor) { return known.count(tensor.unsafeGetTensorImpl()) == 0; }));
  }
  LS_REQUIRE(others == 0, "DistributedDataParallel::step_in_backward: ", others, " of the optimizer's ", total,
             " parameters are none of the module's, or ignored, and would never step; give them an optimizer of their "
             "own");
  optimizers_.push_back(&optimizer);
}

void BucketOptimizers::step(const std::vector<at::Tensor>& parameters) const {
  Identities wanted;
  for (const at::Tensor& parameter : parameters) wanted.insert(parameter.unsafeGetTensorImpl());
  std::vector<at::Tensor> used;
  for (torch::optim::Optimizer* const optimizer : optimizers_) {
    const Narrowed narrowed(*optimizer, wanted);
    if (!narrowed.held().empty()) optimizer->step();
    used.insert(used.end(), narrowed.held().begin(), narrowed.held().end());
  }
  for (const at::Tensor& parameter : used) parameter.mutable_grad().zero_();
}

}  // namespace lockstep::ddp
