#pragma once
// Data-parallel training by hand, which calls the sentinel as DistributedDataParallel does.

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lockstep/parallel/sentinel/sentinel.h"
#include "tests/unit/parallel/group/rank_threads.h"

namespace lockstep::test {

struct TwoLayersImpl : torch::nn::Module {
  TwoLayersImpl()
      : fc1(register_module("fc1", torch::nn::Linear(3, 4))), fc2(register_module("fc2", torch::nn::Linear(4, 2))) {}
  at::Tensor forward(const at::Tensor& x) { return fc2->forward(at::tanh(fc1->forward(x))); }

  torch::nn::Linear fc1;
  torch::nn::Linear fc2;
};
TORCH_MODULE(TwoLayers);

inline Sentinel::NamedParameters named_parameters(const torch::nn::Module& module) {
  Sentinel::NamedParameters parameters;
  for (const auto& item : module.named_parameters()) parameters.emplace_back(item.key(), item.value());
  return parameters;
}

/// One rank. All ranks start with the same weights.
class Training {
 public:
  /// Turns a bucket of gradients into their average; through the communicator, which is not watched.
  using Average = std::function<void(ProcessGroup&, at::Tensor& bucket)>;

  explicit Training(std::shared_ptr<ProcessGroup> group, SentinelOptions options = {}, std::uint64_t seed = 1)
      : group_(std::move(group)),
        net_(make_net(seed)),
        optimizer_(net_->parameters(), 0.1),
        sentinel_(group_, named_parameters(*net_), options) {}

  static void mean(ProcessGroup& group, at::Tensor& bucket) { reduce(group, bucket, ReduceOp::kAvg); }
  static void reduce(ProcessGroup& group, at::Tensor& bucket, ReduceOp op) {
    group.communicator().all_reduce(bucket.data_ptr(), bucket.data_ptr(), static_cast<std::size_t>(bucket.numel()),
                                    DType::kFloat32, op);
  }

  /// Forward and backward; adds this rank's gradients to `.grad`.
  void compute(const at::Tensor& x) {
    sentinel_.before_forward({x});
    net_->forward(x).square().mean().backward();
  }
  void average_gradients() {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> flat;
    for (const at::Tensor& parameter : net_->parameters()) flat.push_back(parameter.grad().flatten());
    at::Tensor bucket = at::cat(flat);
    if (sentinel_.wants_gradients()) sentinel_.sample_before(bucket, "fc1.weight");
    average_(*group_, bucket);
    if (sentinel_.wants_gradients()) sentinel_.sample_after(bucket);
    std::int64_t offset = 0;
    for (const at::Tensor& parameter : net_->parameters()) {
      parameter.grad().copy_(bucket.slice(0, offset, offset + parameter.numel()).view_as(parameter));
      offset += parameter.numel();
    }
    sentinel_.after_backward(true);
  }
  void step(const at::Tensor& x) {
    optimizer_.zero_grad();
    compute(x);
    average_gradients();
    optimizer_.step();
  }
  /// The same without averaging, as inside no_sync().
  void step_alone(const at::Tensor& x) {
    optimizer_.zero_grad();
    compute(x);
    sentinel_.after_backward(false);
    optimizer_.step();
  }

  /// A batch that no other call returns, on any rank.
  at::Tensor fresh_batch() {
    const double first = 1000.0 * (group_->rank() + 1) + static_cast<double>(batches_++);
    return at::sin(at::arange(12, at::kFloat).reshape({4, 3}).add_(first * 12));
  }

  const std::vector<Finding>& findings() const { return sentinel_.findings(); }

  std::shared_ptr<ProcessGroup> group_;
  TwoLayers net_;
  torch::optim::SGD optimizer_;
  Sentinel sentinel_;
  Average average_ = mean;

 private:
  static TwoLayers make_net(std::uint64_t seed) {
    TwoLayers net;
    const at::NoGradGuard no_grad;
    double value = static_cast<double>(seed);
    for (at::Tensor& parameter : net->parameters()) {
      parameter.copy_(at::sin(at::arange(parameter.numel(), at::kFloat).add_(value)).view_as(parameter));
      value += 100;
    }
    return net;
  }

  int batches_ = 0;
};

inline std::vector<FindingKind> kinds_of(const std::vector<Finding>& findings) {
  std::vector<FindingKind> kinds;
  for (const Finding& finding : findings) kinds.push_back(finding.kind);
  return kinds;
}

inline std::string texts_of(const std::vector<Finding>& findings) {
  std::string texts;
  for (const Finding& finding : findings) texts += finding.text + "\n";
  return texts;
}

/// The only finding is of this kind; returns it.
inline Finding only(const Training& training, FindingKind kind) {
  EXPECT_THAT(kinds_of(training.findings()), testing::ElementsAre(kind)) << texts_of(training.findings());
  return training.findings().empty() ? Finding{} : training.findings().front();
}

}  // namespace lockstep::test
