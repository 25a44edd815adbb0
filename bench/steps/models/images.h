#pragma once

#include "bench/steps/models/model.h"

namespace lockstep::bench {

/// 784-2048-2048-10: many parameters for little arithmetic, so that communication shows.
struct MlpImpl : StepModelImpl {
  MlpImpl();
  torch::Tensor forward(const torch::Tensor& images) override;

  torch::nn::Linear first{784, 2048};
  torch::nn::Linear second{2048, 2048};
  torch::nn::Linear last{2048, kClasses};
};

/// Two convolutions and three linear layers on 3 x 32 x 32 images: few parameters, short steps.
struct LeNetImpl : StepModelImpl {
  LeNetImpl();
  torch::Tensor forward(const torch::Tensor& images) override;

  torch::nn::Conv2d conv1{torch::nn::Conv2dOptions(3, 6, 5)};
  torch::nn::Conv2d conv2{torch::nn::Conv2dOptions(6, 16, 5)};
  torch::nn::Linear fc1{400, 120};
  torch::nn::Linear fc2{120, 84};
  torch::nn::Linear fc3{84, kClasses};
};

}  // namespace lockstep::bench
