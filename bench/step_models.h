#pragma once
// The models of the step benchmark: small enough for CPUs, and the same, layer for layer, in bench/peers.

#include <torch/torch.h>

namespace lockstep::bench {

inline constexpr std::int64_t kStepBatch = 64;  ///< samples of one rank
inline constexpr std::int64_t kStepClasses = 10;

/// 784-2048-2048-10: many parameters for little arithmetic, so that communication shows.
struct MlpImpl : torch::nn::Module {
  MlpImpl() {
    register_module("first", first);
    register_module("second", second);
    register_module("last", last);
  }
  torch::Tensor forward(const torch::Tensor& images) { return last(torch::relu(second(torch::relu(first(images))))); }
  static torch::Tensor sample_batch() { return torch::randn({kStepBatch, 784}); }

  torch::nn::Linear first{784, 2048};
  torch::nn::Linear second{2048, 2048};
  torch::nn::Linear last{2048, kStepClasses};
};
TORCH_MODULE(Mlp);

/// Two convolutions and three linear layers on 3 x 32 x 32 images: few parameters, short steps.
struct LeNetImpl : torch::nn::Module {
  LeNetImpl() {
    register_module("conv1", conv1);
    register_module("conv2", conv2);
    register_module("fc1", fc1);
    register_module("fc2", fc2);
    register_module("fc3", fc3);
  }
  torch::Tensor forward(const torch::Tensor& images) {
    auto x = torch::max_pool2d(torch::relu(conv1(images)), 2);
    x = torch::max_pool2d(torch::relu(conv2(x)), 2);
    x = torch::relu(fc1(x.flatten(1)));
    return fc3(torch::relu(fc2(x)));
  }
  static torch::Tensor sample_batch() { return torch::randn({kStepBatch, 3, 32, 32}); }

  torch::nn::Conv2d conv1{torch::nn::Conv2dOptions(3, 6, 5)};
  torch::nn::Conv2d conv2{torch::nn::Conv2dOptions(6, 16, 5)};
  torch::nn::Linear fc1{400, 120};
  torch::nn::Linear fc2{120, 84};
  torch::nn::Linear fc3{84, kStepClasses};
};
TORCH_MODULE(LeNet);

}  // namespace lockstep::bench
