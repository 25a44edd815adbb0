// N ranks equal one rank, a run equals its repetition, and both equal PyTorch. Ranks have the threads that a flag says.

#include <gmock/gmock.h>

#include "tests/e2e/training.h"
#include "tests/support/free_port.h"

namespace lockstep::e2e {
namespace {

// The sums of a global batch are split in another order, so losses differ by rounding, which training then amplifies:
// 1e-5 over the 46 steps of two epochs leaves a factor of more than ten to what is seen.
constexpr double kBound = 1e-5;

class Equivalence : public ::testing::TestWithParam<const char*> {};

TEST_P(Equivalence, TwoAndFourRanksLoseWhatOneDoes) {
  const io::TempDirectory directory("equivalence");
  const Arguments epochs = {"--epochs", "2"};
  const auto one = train(directory, GetParam(), 1, 64, epochs);
  ASSERT_EQ(one.size(), 46u);
  EXPECT_LT(one.back(), one.front());
  for (const int world : {2, 4}) {
    const auto many = train(directory, GetParam(), world, 64 / world, epochs);
    EXPECT_LT(largest_difference(one, many), kBound) << world << " ranks";
    EXPECT_GT(many.size(), 0u);
  }
}

TEST_P(Equivalence, ARepetitionIsBitIdentical) {
  const io::TempDirectory directory("repetition");
  std::vector<std::vector<double>> losses;
  std::vector<std::string> weights;
  for (int run = 0; run < 2; ++run) {
    const std::string output = directory.path() + "/weights.pt";
    losses.push_back(train(directory, GetParam(), 2, 32, {"--epochs", "2", "--output", output}));
    weights.push_back(io::read_file(output));
  }
  ASSERT_EQ(losses[0].size(), 46u);
  EXPECT_EQ(losses[0], losses[1]);
  EXPECT_TRUE(weights[0] == weights[1]) << "the weights differ";
}

bool has_python_torch() {
  return support::run_program({"/usr/bin/env", "PYTHONNOUSERSITE=1", "/usr/bin/python3", "-c", "import torch"}).ok();
}

TEST_P(Equivalence, PyTorchsDistributedDataParallelLosesTheSame) {
  if (!has_python_torch()) GTEST_SKIP() << "python3-torch is not installed";
  const io::TempDirectory directory("pytorch");
  const std::string initial = directory.path() + "/initial.pt";
  support::ProcessOptions options;
  options.deadline = std::chrono::seconds(120);
  options.tell_ranks = false;
  const auto reference =
      support::run_program({"/usr/bin/python3", std::string(LOCKSTEP_SOURCE_DIR) + "/tests/e2e/pytorch_ddp.py",
                            GetParam(), kDigits, "2", "32", "50", kLearningRate, kMomentum, "3", initial},
                           options);
  ASSERT_TRUE(reference.ok()) << reference.err;
  const auto theirs = nlohmann::json::parse(reference.out)["losses"].get<std::vector<double>>();
  ASSERT_EQ(theirs.size(), 50u);
  const auto ours = train(directory, GetParam(), 2, 32, {"--max-steps", "50", "--seed", "3", "--init", initial});
  EXPECT_LT(largest_difference(theirs, ours), 1e-5);
  // Training moved the loss by far more than the bound, so that agreement means something.
  EXPECT_LT(ours.back(), ours.front() - 1e-3);
}

INSTANTIATE_TEST_SUITE_P(Models, Equivalence, ::testing::Values("lenet", "mlp"),
                         [](const auto& instance) { return std::string(instance.param); });

TEST(Threads, AreThoseOfTheFlagWhereNoLauncherSaysHowMany) {
  const io::TempDirectory directory("threads");
  const std::string metrics = directory.path() + "/metrics.jsonl";
  const std::string port = std::to_string(support::free_port());
  const Arguments command = {LOCKSTEP_TRAIN, "--data", kDigits,     "--max-steps", "1",
                             "--threads",    "3",      "--metrics", metrics,       "--no-progress"};
  std::vector<launch::Variables> variables;
  for (const char* const rank : {"0", "1"}) {
    variables.push_back(
        launch::Variables{{"RANK", rank}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", port}});
  }
  const std::vector<Arguments> commands(variables.size(), command);
  const auto end = support::run_programs(commands, variables);
  ASSERT_TRUE(end.ok()) << end;
  std::ifstream in(metrics);
  std::string line;
  std::getline(in, line);
  EXPECT_EQ(nlohmann::json::parse(line)["threads"], 3) << line;
}

}  // namespace
}  // namespace lockstep::e2e
