#pragma once

#include "bench/steps/models/model.h"
#include "lockstep/parallel/nn/sync_batch_norm.h"

namespace lockstep::bench {

/// Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes.
class BasicBlockImpl : public torch::nn::Module {
 public:
  BasicBlockImpl(std::int64_t in_channels, std::int64_t channels, std::int64_t stride);
  torch::Tensor forward(const torch::Tensor& x);

 private:
  torch::nn::Conv2d conv1_{nullptr};
  SyncBatchNorm bn1_{nullptr};
  torch::nn::Conv2d conv2_{nullptr};
  SyncBatchNorm bn2_{nullptr};
  torch::nn::Sequential downsample_{nullptr};
};
TORCH_MODULE(BasicBlock);

/// ResNet-18 as torchvision builds it: a 7x7 stem with pooling, four stages of two blocks, 64 to 512 channels.
/// Its norms have no group: until convert_sync_batch_norm() they are BatchNorms.
/// He et al., "Deep residual learning for image recognition" (2016).
class ResNet18Impl : public StepModelImpl {
 public:
  ResNet18Impl();
  torch::Tensor forward(const torch::Tensor& images) override;

 private:
  torch::nn::Conv2d conv1_{nullptr};
  SyncBatchNorm bn1_{nullptr};
  torch::nn::Sequential stages_;
  torch::nn::Linear fc_{nullptr};
};

}  // namespace lockstep::bench
