#include "lockstep/parallel/train/evaluate.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <torch/nn/functional/loss.h>
#include <torch/nn/module.h>
#include <torch/types.h>

#include "lockstep/parallel/data/distributed_sampler.h"
#include "lockstep/parallel/data/loader.h"

namespace lockstep::train {
namespace {

/// Puts a module into eval mode, and each of its modules back into the one that it was in.
class EvalMode {
 public:
  explicit EvalMode(torch::nn::Module& module) {
    for (const auto& part : module.modules()) before_.emplace_back(part, part->is_training());
    module.eval();
  }
  ~EvalMode() {
    // train() reaches a module's children as well; they come after it in the list.
    for (const auto& [part, trained] : before_) part->train(trained);
  }
  EvalMode(const EvalMode&) = delete;
  EvalMode& operator=(const EvalMode&) = delete;

 private:
  std::vector<std::pair<std::shared_ptr<torch::nn::Module>, bool>> before_;
};

}  // namespace

Evaluation evaluate(const Model& model, const data::Dataset& dataset, ProcessGroup& group, std::size_t batch_size) {
  const torch::NoGradGuard no_grad;
  const EvalMode mode(model.module());
  const DistributedSampler sampler(dataset.size(), group, {.shuffle = false});

  // The sampler repeats samples at the end of the order so that all ranks have the same number: they are left out.
  auto left = static_cast<std::int64_t>(sampler.size() - sampler.padding());
  std::int64_t correct = 0;
  std::int64_t total = 0;
  double loss = 0;
  for (auto& batch : data::loader(dataset, sampler, {.batch_size = batch_size})) {
    const std::int64_t counted = std::min(left, batch.data.size(0));
    if (counted == 0) break;
    const at::Tensor target = batch.target.narrow(0, 0, counted);
    const at::Tensor output = model.forward(batch.data.narrow(0, 0, counted));
    correct += output.argmax(1).eq(target).sum().item<std::int64_t>();
    loss += torch::nn::functional::cross_entropy(
                output, target, torch::nn::functional::CrossEntropyFuncOptions().reduction(torch::kSum))
                .item<double>();
    total += target.numel();
    left -= counted;
  }

  at::Tensor counts = torch::tensor({correct, total}, torch::kInt64);
  at::Tensor losses = torch::tensor({loss}, torch::kFloat64);
  group.all_reduce(counts, ReduceOp::kSum, {.timeout = {}, .label = "evaluation counts"});
  group.all_reduce(losses, ReduceOp::kSum, {.timeout = {}, .label = "evaluation loss"});
  Evaluation result;
  result.correct = counts[0].item<std::int64_t>();
  result.total = counts[1].item<std::int64_t>();
  if (result.total > 0) result.mean_loss = losses[0].item<double>() / static_cast<double>(result.total);
  return result;
}

}  // namespace lockstep::train
