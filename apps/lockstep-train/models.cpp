#include "apps/lockstep-train/models.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "lockstep/core/base/check.h"

namespace lockstep::app {

namespace nn = torch::nn;

LeNetPlan plan_lenet(std::int64_t height, std::int64_t width) {
  constexpr std::int64_t kKernel = 5;
  constexpr std::int64_t kPadding = 2;
  constexpr std::int64_t kChannels = 16;
  LS_REQUIRE(std::min(height, width) >= 4, "lenet needs images of at least 4x4, these are ", height, "x", width);
  LeNetPlan plan;
  plan.padding1 = std::min(height, width) < 32 ? kPadding : 0;
  const auto shrink = [](std::int64_t size, std::int64_t padding) { return (size + 2 * padding - kKernel + 1) / 2; };
  const std::int64_t height1 = shrink(height, plan.padding1);
  const std::int64_t width1 = shrink(width, plan.padding1);
  plan.padding2 = std::min(height1, width1) < 10 ? kPadding : 0;
  plan.features = kChannels * shrink(height1, plan.padding2) * shrink(width1, plan.padding2);
  return plan;
}

LeNetImpl::LeNetImpl(std::int64_t channels, std::int64_t height, std::int64_t width, std::int64_t classes) {
  const LeNetPlan plan = plan_lenet(height, width);
  conv1_ = register_module("conv1", nn::Conv2d(nn::Conv2dOptions(channels, 6, 5).padding(plan.padding1)));
  conv2_ = register_module("conv2", nn::Conv2d(nn::Conv2dOptions(6, 16, 5).padding(plan.padding2)));
  fc1_ = register_module("fc1", nn::Linear(plan.features, 120));
  fc2_ = register_module("fc2", nn::Linear(120, 84));
  fc3_ = register_module("fc3", nn::Linear(84, classes));
}

torch::Tensor LeNetImpl::forward(torch::Tensor x) {
  x = torch::max_pool2d(torch::relu(conv1_(x)), 2);
  x = torch::max_pool2d(torch::relu(conv2_(x)), 2);
  x = torch::relu(fc1_(x.flatten(1)));
  x = torch::relu(fc2_(x));
  return fc3_(x);
}

MlpImpl::MlpImpl(std::int64_t inputs, const std::vector<std::int64_t>& hidden, std::int64_t classes) {
  std::vector<std::int64_t> widths = hidden;
  widths.push_back(classes);
  for (std::size_t i = 0; i < widths.size(); ++i) {
    const std::string name = "fc" + std::to_string(i + 1);
    layers_.push_back(register_module(name, nn::Linear(i == 0 ? inputs : widths[i - 1], widths[i])));
  }
}

torch::Tensor MlpImpl::forward(torch::Tensor x) {
  x = x.flatten(1);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (i > 0) x = torch::relu(x);
    x = layers_[i](x);
  }
  return x;
}

train::Model make_model(const ModelSpec& spec) {
  torch::manual_seed(spec.seed);
  const auto& shape = spec.sample_shape;
  if (spec.name == "lenet") {
    LS_REQUIRE(shape.size() == 3, "lenet needs images, not samples of ", shape.size(), " dimensions");
    return train::Model(LeNet(shape[0], shape[1], shape[2], spec.classes));
  }
  if (spec.name == "mlp") {
    const std::int64_t inputs = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
    return train::Model(Mlp(inputs, spec.hidden, spec.classes));
  }
  throw UsageError("unknown model '" + spec.name + "': expected mlp or lenet");
}

}  // namespace lockstep::app
