#include "lockstep/parallel/ddp/autograd_graph.h"

#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lockstep/parallel/ddp/output_tensors.h"

namespace lockstep::ddp {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// Parameters, their accumulators, and the order in which backward really reached them.
struct Probe {
  explicit Probe(std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
      parameters.push_back(torch::ones({2}, torch::requires_grad()));
      accumulators.push_back(torch::autograd::impl::grad_accumulator(parameters[i]));
      nodes.emplace(accumulators[i].get(), i);
      parameters[i].register_hook([this, i](const at::Tensor&) { arrived.push_back(i); });
    }
  }
  std::vector<at::Tensor> parameters;
  std::vector<std::shared_ptr<torch::autograd::Node>> accumulators;
  NodeIndex nodes;
  std::vector<std::size_t> arrived;
};

TEST(AutogradGraph, FindsWhatABackwardReaches) {
  Probe probe(4);
  const auto& p = probe.parameters;
  const at::Tensor a = (p[0] * p[2]).sum();
  const at::Tensor b = p[3].sum();
  EXPECT_THAT(reached_nodes({a}, probe.nodes), ElementsAre(0, 2));
  EXPECT_THAT(reached_nodes({a, b}, probe.nodes), ElementsAre(0, 2, 3));
  EXPECT_THAT(reached_nodes({a.detach(), at::ones({1})}, probe.nodes), IsEmpty());
  EXPECT_THAT(reached_nodes({}, probe.nodes), IsEmpty());
  EXPECT_THAT(reached_nodes({p[1], p[1]}, probe.nodes), ElementsAre(1));  // An output that is a parameter itself.
  // A leaf that nobody watches: its node is made when it is asked for.
  const at::Tensor stranger = torch::ones({2}, torch::requires_grad());
  EXPECT_THAT(reached_nodes({stranger, a}, probe.nodes), ElementsAre(0, 2));
  EXPECT_THAT(predict_order({stranger}, probe.nodes), IsEmpty());
}

TEST(AutogradGraph, PredictsTheOrderOfAChain) {
  Probe probe(4);
  const auto& p = probe.parameters;
  const at::Tensor y = ((at::ones({2}) * p[2]).tanh() * p[0] + p[3]).relu() * p[1];
  const auto predicted = predict_order({y}, probe.nodes);
  y.sum().backward();
  EXPECT_EQ(predicted, probe.arrived);
  EXPECT_THAT(predicted, ElementsAre(1, 3, 0, 2));
}

TEST(AutogradGraph, PredictsTheOrderOfLayersBranchesAndReuse) {
  torch::manual_seed(1);
  torch::nn::Sequential left(torch::nn::Linear(3, 4), torch::nn::Tanh(), torch::nn::Linear(4, 3));
  torch::nn::Sequential right(torch::nn::Linear(3, 3), torch::nn::LayerNorm(torch::nn::LayerNormOptions({3})));
  torch::nn::Linear shared(3, 3);
  std::vector<at::Tensor> parameters = left->parameters();
  for (const auto& p : right->parameters()) parameters.push_back(p);
  for (const auto& p : shared->parameters()) parameters.push_back(p);
  NodeIndex nodes;
  std::vector<std::shared_ptr<torch::autograd::Node>> accumulators;
  std::vector<std::size_t> arrived;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    accumulators.push_back(torch::autograd::impl::grad_accumulator(parameters[i]));
    nodes.emplace(accumulators[i].get(), i);
    parameters[i].register_hook([&arrived, i](const at::Tensor&) { arrived.push_back(i); });
  }
  const at::Tensor x = shared(torch::ones({2, 3}));
  const at::Tensor first = shared(left->forward(x)) + x;
  const at::Tensor second = right->forward(first) * shared(x);
  const auto predicted = predict_order({first, second}, nodes);
  (first.sum() + second.pow(2).sum()).backward();
  EXPECT_EQ(predicted, arrived);
  EXPECT_EQ(predicted.size(), parameters.size());
}

TEST(OutputTensors, AreFoundInWhatFunctionsReturn) {
  struct Own {
    at::Tensor logits;
    std::vector<at::Tensor> tensors() const { return {logits}; }
  };
  const at::Tensor t = at::ones({1});
  const std::map<std::string, at::Tensor> map = {{"a", t}, {"b", t}};
  EXPECT_EQ(tensors_in(t, 3, "text", std::string("text")).size(), 1u);
  EXPECT_EQ(tensors_in(at::Tensor()).size(), 0u);
  EXPECT_EQ(tensors_in(std::vector<at::Tensor>{t, t, at::Tensor()}).size(), 2u);
  EXPECT_EQ(tensors_in(std::make_tuple(t, std::make_pair(t, 1.0), std::optional<at::Tensor>(t))).size(), 3u);
  EXPECT_EQ(tensors_in(map, std::optional<at::Tensor>()).size(), 2u);
  EXPECT_EQ(tensors_in(Own{t}).size(), 1u);
}

}  // namespace
}  // namespace lockstep::ddp
