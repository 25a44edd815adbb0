#include "apps/lockstep-train/models.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"

namespace lockstep::app {
namespace {

TEST(LeNetPlan, PadsOnlyWhereTheImageWouldShrinkBelowTheClassicMap) {
  struct Case {
    std::int64_t height, width, padding1, padding2, features;
  };
  for (const Case& c :
       {Case{32, 32, 0, 0, 400}, Case{28, 28, 2, 0, 400}, Case{8, 8, 2, 2, 64}, Case{4, 4, 2, 2, 16},
        Case{5, 7, 2, 2, 16}, Case{20, 20, 2, 0, 144}, Case{19, 40, 2, 2, 640}, Case{64, 33, 0, 0, 16 * 13 * 5}}) {
    const LeNetPlan plan = plan_lenet(c.height, c.width);
    EXPECT_EQ(plan.padding1, c.padding1) << c.height << "x" << c.width;
    EXPECT_EQ(plan.padding2, c.padding2) << c.height << "x" << c.width;
    EXPECT_EQ(plan.features, c.features) << c.height << "x" << c.width;
  }
  EXPECT_THROW(plan_lenet(3, 28), UsageError);
}

TEST(LeNet, TakesTheImagesOfTheDataSets) {
  struct Case {
    std::int64_t channels, size;
  };
  for (const Case& c : {Case{1, 8}, Case{1, 28}, Case{3, 32}, Case{2, 5}}) {
    LeNet net(c.channels, c.size, c.size, 10);
    const auto output = net->forward(torch::rand({3, c.channels, c.size, c.size}));
    EXPECT_THAT(output.sizes(), ::testing::ElementsAre(3, 10)) << c.size;
  }
}

TEST(LeNet, ParametersAreInTheOrderOfTheTutorial) {
  std::vector<std::string> names;
  const LeNet net(3, 32, 32, 10);
  for (const auto& item : net->named_parameters()) names.push_back(item.key());
  EXPECT_THAT(names, ::testing::ElementsAre("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "fc1.weight",
                                            "fc1.bias", "fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias"));
  std::int64_t count = 0;
  for (const auto& parameter : net->parameters()) count += parameter.numel();
  EXPECT_EQ(count, 62006);
}

TEST(Mlp, HasTheWidthsItIsGiven) {
  Mlp net(784, std::vector<std::int64_t>{2048, 2048}, 10);
  EXPECT_THAT(net->forward(torch::rand({2, 1, 28, 28})).sizes(), ::testing::ElementsAre(2, 10));
  std::int64_t count = 0;
  for (const auto& parameter : net->parameters()) count += parameter.numel();
  EXPECT_EQ(count, 784 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 10 + 10);
  EXPECT_EQ(Mlp(5, std::vector<std::int64_t>{}, 3)->parameters().size(), 2u);
}

TEST(MakeModel, TheSeedDecidesTheWeights) {
  ModelSpec spec{.name = "lenet", .sample_shape = {1, 8, 8}, .seed = 3};
  const auto first = make_model(spec).module().parameters();
  const auto second = make_model(spec).module().parameters();
  for (std::size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(torch::equal(first[i], second[i]));
  spec.seed = 4;
  EXPECT_FALSE(torch::equal(make_model(spec).module().parameters()[0], first[0]));
}

TEST(MakeModel, ForwardReachesTheModule) {
  const auto model = make_model({.name = "mlp", .sample_shape = {1, 8, 8}, .classes = 7, .hidden = {5}});
  EXPECT_THAT(model.forward(torch::rand({2, 1, 8, 8})).sizes(), ::testing::ElementsAre(2, 7));
  EXPECT_THROW(make_model({.name = "vgg", .sample_shape = {1, 8, 8}}), UsageError);
}

}  // namespace
}  // namespace lockstep::app
