#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <torch/torch.h>

#include "lockstep/parallel/train/model.h"

namespace lockstep::app {

/// How LeNet meets an image size.
struct LeNetPlan {
  std::int64_t padding1 = 0;  ///< of the first convolution
  std::int64_t padding2 = 0;  ///< of the second
  std::int64_t features = 0;  ///< inputs of the first linear layer
};

/// Pure. A convolution gets padding 2 where the image would shrink below the classic feature map (32x32 at the first,
/// 10x10 at the second). UsageError for images too small to pool twice.
LeNetPlan plan_lenet(std::int64_t height, std::int64_t width);

/// Two 5x5 convolutions (6 and 16 channels), each followed by 2x2 max pooling, and linear layers of 120, 84 and
/// `classes`: LeCun et al., "Gradient-based learning applied to document recognition" (1998), with ReLU, as PyTorch's
/// CIFAR-10 tutorial writes it. Input: float32 [n, channels, height, width]; output: [n, classes].
class LeNetImpl : public torch::nn::Module {
 public:
  LeNetImpl(std::int64_t channels, std::int64_t height, std::int64_t width, std::int64_t classes);
  torch::Tensor forward(torch::Tensor x);

 private:
  torch::nn::Conv2d conv1_{nullptr};
  torch::nn::Conv2d conv2_{nullptr};
  torch::nn::Linear fc1_{nullptr};
  torch::nn::Linear fc2_{nullptr};
  torch::nn::Linear fc3_{nullptr};
};
TORCH_MODULE(LeNet);

/// Linear layers fc1, fc2 ... of the given widths with ReLU between them, on the flattened input.
class MlpImpl : public torch::nn::Module {
 public:
  MlpImpl(std::int64_t inputs, const std::vector<std::int64_t>& hidden, std::int64_t classes);
  torch::Tensor forward(torch::Tensor x);

 private:
  std::vector<torch::nn::Linear> layers_;
};
TORCH_MODULE(Mlp);

struct ModelSpec {
  std::string name;                        ///< mlp or lenet
  std::vector<std::int64_t> sample_shape;  ///< {channels, height, width}
  std::int64_t classes = 10;
  std::vector<std::int64_t> hidden = {};  ///< mlp only
  std::uint64_t seed = 0;                 ///< the same seed gives the same first weights
};

/// Throws UsageError (an unknown name, images too small).
train::Model make_model(const ModelSpec& spec);

}  // namespace lockstep::app
