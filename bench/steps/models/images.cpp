#include "bench/steps/models/images.h"

namespace lockstep::bench {

MlpImpl::MlpImpl() {
  register_module("first", first);
  register_module("second", second);
  register_module("last", last);
}

torch::Tensor MlpImpl::forward(const torch::Tensor& images) {
  return last(torch::relu(second(torch::relu(first(images)))));
}

LeNetImpl::LeNetImpl() {
  register_module("conv1", conv1);
  register_module("conv2", conv2);
  register_module("fc1", fc1);
  register_module("fc2", fc2);
  register_module("fc3", fc3);
}

torch::Tensor LeNetImpl::forward(const torch::Tensor& images) {
  auto x = torch::max_pool2d(torch::relu(conv1(images)), 2);
  x = torch::max_pool2d(torch::relu(conv2(x)), 2);
  x = torch::relu(fc1(x.flatten(1)));
  return fc3(torch::relu(fc2(x)));
}

}  // namespace lockstep::bench
