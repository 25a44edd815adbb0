#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include <torch/torch.h>

namespace lockstep::bench {

inline constexpr std::int64_t kClasses = 10;  ///< of what looks at images

/// What all models of the step benchmark have in common, so that one trainer serves them.
struct StepModelImpl : torch::nn::Module {
  virtual torch::Tensor forward(const torch::Tensor& inputs) = 0;
};
TORCH_MODULE(StepModel);

/// A model, and the batch that one rank trains it on. The same, layer for layer, is in bench/peers/torch_ddp_bench.py.
struct ModelSpec {
  std::string_view name;
  std::int64_t batch;  ///< samples of one rank in a step
  int steps;           ///< of a block: some tenths of a second
  StepModel (*make)();
  torch::Tensor (*inputs)();
  torch::Tensor (*targets)();  ///< classes, of the shape of the output without its last dim
};

/// lenet, mlp, resnet18, gpt.
std::span<const ModelSpec> step_models();

std::int64_t count_parameters(const torch::nn::Module& module);

}  // namespace lockstep::bench
