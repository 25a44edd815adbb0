#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <torch/torch.h>

#include "lockstep/parallel/ddp/distributed_data_parallel.h"

namespace lockstep::test {

/// Parameters "p0", "p1" ... of given shapes and dtypes. forward(scale) = sum over i of (i + 1) * scale * p_i.sum(), so
/// that the gradient of every element of p_i is exactly (i + 1) * scale.
class WeightedSumImpl : public torch::nn::Module {
 public:
  struct Spec {
    std::vector<std::int64_t> shape;
    at::ScalarType type = at::kFloat;
    bool trained = true;
  };

  explicit WeightedSumImpl(const std::vector<Spec>& specs, double fill = 1) {
    for (const Spec& spec : specs) {
      weights.push_back(register_parameter("p" + std::to_string(weights.size()), at::full(spec.shape, fill, spec.type),
                                           spec.trained));
    }
  }

  at::Tensor forward(double scale) {
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (const std::size_t i : order())
      sum = sum + (weights[i].sum() * (static_cast<double>(i) + 1) * scale).to(at::kDouble);
    return sum;
  }

  std::vector<at::Tensor> weights;
  std::vector<std::size_t> left_out;  // Of forward.

 private:
  std::vector<std::size_t> order() const {
    std::vector<std::size_t> result;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      if (std::find(left_out.begin(), left_out.end(), i) == left_out.end()) result.push_back(i);
    }
    return result;
  }
};
TORCH_MODULE(WeightedSum);

/// Two linear layers with a buffer-carrying normalisation between them, where asked for.
class SmallNetImpl : public torch::nn::Module {
 public:
  explicit SmallNetImpl(std::int64_t hidden = 5, bool normalise = false)
      : first(register_module("first", torch::nn::Linear(3, hidden))),
        second(register_module("second", torch::nn::Linear(hidden, 2))) {
    if (normalise) norm = register_module("norm", torch::nn::BatchNorm1d(hidden));
  }

  at::Tensor forward(const at::Tensor& x) {
    at::Tensor hidden = first->forward(x);
    if (norm) hidden = norm->forward(hidden);
    return second->forward(at::tanh(hidden));
  }

  torch::nn::Linear first;
  torch::nn::Linear second;
  torch::nn::BatchNorm1d norm{nullptr};
};
TORCH_MODULE(SmallNet);

/// Every element of `tensor` is `value`.
inline bool all_equal(const at::Tensor& tensor, double value) { return tensor.eq(value).all().item<bool>(); }

/// Runs `call`; the text of the error of this type that it throws, or a note that it threw none.
template <typename Error>
std::string error_text(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no such error";
}

}  // namespace lockstep::test
