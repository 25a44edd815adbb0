#pragma once
// Internal: never included from a public header.

#include <vector>

#include <ATen/core/Tensor.h>

#include "lockstep/parallel/ddp/replicate.h"

namespace torch::optim {
class Optimizer;
}

namespace lockstep::ddp {

/// Optimizers of the program that step on some of their parameters at a time: those of a bucket whose average is there.
class BucketOptimizers {
 public:
  /// `averaged`: the parameters of the module, frozen ones too. UsageError for an optimizer that holds others, which
  /// would never step; that was added before; or that does not treat parameters one by one.
  void add(torch::optim::Optimizer& optimizer, const std::vector<NamedTensor>& averaged);
  bool empty() const noexcept { return optimizers_.empty(); }

  /// What optimizer.step() and zero_grad() do, for those of `parameters` alone that an optimizer holds; gradients stay
  /// where they are. Throws what step() throws; the optimizers then still hold all of their parameters.
  void step(const std::vector<at::Tensor>& parameters) const;

 private:
  std::vector<torch::optim::Optimizer*> optimizers_;
};

}  // namespace lockstep::ddp
