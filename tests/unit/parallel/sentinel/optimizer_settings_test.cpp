#include "lockstep/parallel/sentinel/optimizer_settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

namespace lockstep::sentinel {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

NamedParameters two() { return {{"w", at::ones({2}).requires_grad_()}, {"b", at::ones({1}).requires_grad_()}}; }

std::vector<at::Tensor> tensors_of(const NamedParameters& parameters) {
  std::vector<at::Tensor> tensors;
  for (const auto& [name, tensor] : parameters) tensors.push_back(tensor);
  return tensors;
}

template <typename Optimizer, typename Options>
std::string text_of(const NamedParameters& parameters, const Options& options) {
  const Optimizer optimizer(tensors_of(parameters), options);
  return describe({&optimizer}, parameters);
}

TEST(OptimizerSettings, AreWrittenOutByName) {
  const NamedParameters parameters = two();
  EXPECT_EQ(text_of<torch::optim::SGD>(parameters, torch::optim::SGDOptions(0.1).momentum(0.9)),
            "SGD group 0: lr\t0.1\nSGD group 0: momentum\t0.9\nSGD group 0: dampening\t0\n"
            "SGD group 0: weight_decay\t0\nSGD group 0: nesterov\toff\nSGD group 0: parameters\t2 of them: w b\n");
  EXPECT_THAT(text_of<torch::optim::Adam>(parameters, torch::optim::AdamOptions(1e-3)),
              HasSubstr("Adam group 0: betas\t0.9, 0.999\n"));
  EXPECT_THAT(text_of<torch::optim::AdamW>(parameters, torch::optim::AdamWOptions(1e-3)),
              HasSubstr("AdamW group 0: weight_decay\t0.01\n"));
  EXPECT_THAT(text_of<torch::optim::RMSprop>(parameters, torch::optim::RMSpropOptions(1e-3)),
              HasSubstr("RMSprop group 0: alpha\t0.99\n"));
  EXPECT_THAT(text_of<torch::optim::Adagrad>(parameters, torch::optim::AdagradOptions(1e-3)),
              HasSubstr("Adagrad group 0: lr_decay\t0\n"));
  EXPECT_THAT(text_of<torch::optim::LBFGS>(parameters, torch::optim::LBFGSOptions(1)),
              testing::AllOf(HasSubstr("LBFGS group 0: max_iter\t20\n"), HasSubstr("line_search_fn\tnone\n")));
}

struct OwnOptions : torch::optim::OptimizerCloneableOptions<OwnOptions> {};
struct Own : torch::optim::Optimizer {
  explicit Own(std::vector<at::Tensor> parameters) : Optimizer(std::move(parameters), std::make_unique<OwnOptions>()) {}
  at::Tensor step(LossClosure /*closure*/) override { return {}; }
};

TEST(OptimizerSettings, OfAnotherOptimizerItsTypeAndParameters) {
  const NamedParameters parameters = two();
  const Own optimizer({parameters[1].second, at::ones({3})});
  const std::string text = describe({&optimizer}, parameters);
  EXPECT_THAT(text, HasSubstr("Own group 0: parameters\t2 of them: b (not of this module)\n"));
}

TEST(OptimizerSettings, TheFirstDifferenceIsNamed) {
  const NamedParameters parameters = two();
  const std::string a = text_of<torch::optim::SGD>(parameters, torch::optim::SGDOptions(0.1));
  const std::string b = text_of<torch::optim::SGD>(parameters, torch::optim::SGDOptions(0.01).nesterov(false));
  EXPECT_EQ(first_difference(a, a, 2), "");
  EXPECT_EQ(first_difference(a, b, 2), "SGD group 0: lr is 0.1 on rank 0 but 0.01 on rank 2");
  EXPECT_EQ(first_difference(a, "", 1),
            "rank 0's optimizers have 'SGD group 0: lr' where those of rank 1 have 'nothing'");
  const std::string adam = text_of<torch::optim::Adam>(parameters, torch::optim::AdamOptions(0.1));
  EXPECT_EQ(first_difference(a, adam, 1),
            "rank 0's optimizers have 'SGD group 0: lr' where those of rank 1 have 'Adam group 0: lr'");
  const std::string many(80, 'x');
  EXPECT_EQ(first_difference("p\t" + many + " a c\n", "p\t" + many + " b c\n", 1),
            "p is .. a c on rank 0 but .. b c on rank 1");
  EXPECT_EQ(first_difference("p\t" + many + "\n", "p\t" + many + " b\n", 1), "p is ..  on rank 0 but ..  b on rank 1");
}

TEST(OptimizerSettings, LeftOutIsWhatHasAGradientAndNoOptimizer) {
  const NamedParameters parameters = two();
  const NamedParameters others = two();
  parameters[0].second.mutable_grad() = at::ones({2});
  parameters[1].second.mutable_grad() = at::ones({1});
  const torch::optim::SGD all(tensors_of(parameters), 0.1);
  const torch::optim::SGD first({parameters[0].second}, 0.1);
  const torch::optim::SGD second({parameters[1].second}, 0.1);
  const torch::optim::SGD other(tensors_of(others), 0.1);
  EXPECT_THAT(left_out({&all}, parameters), IsEmpty());
  EXPECT_THAT(left_out({&first, &second}, parameters), IsEmpty());
  EXPECT_THAT(left_out({&first}, parameters), ElementsAre(1));
  EXPECT_THAT(left_out({&other}, parameters), ElementsAre(0, 1));
  parameters[1].second.mutable_grad() = at::Tensor();
  EXPECT_THAT(left_out({&first}, parameters), IsEmpty()) << "without a gradient there is nothing to step";
}

}  // namespace
}  // namespace lockstep::sentinel
