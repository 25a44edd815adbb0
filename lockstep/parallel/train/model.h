#pragma once

#include <functional>
#include <memory>
#include <utility>

#include <ATen/core/Tensor.h>

namespace torch::nn {
class Module;
}

namespace lockstep::train {

/// Any module whose forward takes one tensor and returns one, with its type erased: what the loop needs of a model.
///
/// Shares the module with the holder that it was made from. Thread safety: as the module's.
class Model {
 public:
  using Forward = std::function<at::Tensor(const at::Tensor&)>;

  /// `holder`: any holder of libtorch (LeNet, torch::nn::Sequential ...).
  template <typename Holder>
  explicit Model(Holder holder)
      : module_(holder.ptr()), forward_([holder = std::move(holder)](const at::Tensor& input) mutable {
          return at::Tensor(holder->forward(input));
        }) {}
  Model(std::shared_ptr<torch::nn::Module> module, Forward forward)
      : module_(std::move(module)), forward_(std::move(forward)) {}

  torch::nn::Module& module() const noexcept { return *module_; }
  at::Tensor forward(const at::Tensor& input) const { return forward_(input); }

 private:
  std::shared_ptr<torch::nn::Module> module_;
  Forward forward_;
};

}  // namespace lockstep::train
