#include "bench/steps/models/resnet18.h"

namespace lockstep::bench {
namespace {

torch::nn::Conv2d convolution(std::int64_t in_channels, std::int64_t channels, std::int64_t width,
                              std::int64_t stride) {
  const auto options = torch::nn::Conv2dOptions(in_channels, channels, width);
  return torch::nn::Conv2d(torch::nn::Conv2dOptions(options).stride(stride).padding(width / 2).bias(false));
}

}  // namespace

BasicBlockImpl::BasicBlockImpl(std::int64_t in_channels, std::int64_t channels, std::int64_t stride) {
  conv1_ = register_module("conv1", convolution(in_channels, channels, 3, stride));
  bn1_ = register_module("bn1", SyncBatchNorm(channels));
  conv2_ = register_module("conv2", convolution(channels, channels, 3, 1));
  bn2_ = register_module("bn2", SyncBatchNorm(channels));
  if (stride != 1 || in_channels != channels) {
    downsample_ = register_module(
        "downsample", torch::nn::Sequential(convolution(in_channels, channels, 1, stride), SyncBatchNorm(channels)));
  }
}

torch::Tensor BasicBlockImpl::forward(const torch::Tensor& x) {
  auto out = bn1_(conv1_(x)).relu_();
  out = bn2_(conv2_(out));
  out += downsample_ ? downsample_->forward(x) : x;
  return out.relu_();
}

ResNet18Impl::ResNet18Impl() {
  conv1_ = register_module("conv1", convolution(3, 64, 7, 2));
  bn1_ = register_module("bn1", SyncBatchNorm(64));
  register_module("stages", stages_);
  std::int64_t in_channels = 64;
  for (const std::int64_t channels : {64, 128, 256, 512}) {
    stages_->push_back(BasicBlock(in_channels, channels, channels == 64 ? 1 : 2));
    stages_->push_back(BasicBlock(channels, channels, 1));
    in_channels = channels;
  }
  fc_ = register_module("fc", torch::nn::Linear(512, kClasses));
  for (const auto& module : modules(/*include_self=*/false)) {
    if (auto* conv = module->as<torch::nn::Conv2d>()) {
      torch::nn::init::kaiming_normal_(conv->weight, 0, torch::kFanOut, torch::kReLU);
    }
  }
}

torch::Tensor ResNet18Impl::forward(const torch::Tensor& images) {
  auto x = torch::max_pool2d(bn1_(conv1_(images)).relu_(), 3, 2, 1);
  x = stages_->forward(x);
  return fc_(torch::adaptive_avg_pool2d(x, {1, 1}).flatten(1));
}

}  // namespace lockstep::bench
