// Two ranks lose, step by step, what two ranks of PyTorch's DistributedDataParallel lose: the models of the step
// benchmark, and each of DDP's options.

#include <cmath>
#include <fstream>
#include <iostream>
#include <optional>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include "bench/steps/models/gpt.h"
#include "bench/steps/models/model.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/comm/init.h"
#include "lockstep/core/io/file.h"
#include "lockstep/parallel/ddp/distributed_data_parallel.h"
#include "tests/support/processes.h"

namespace lockstep {
namespace {

using support::Arguments;

constexpr int kWorld = 2;
constexpr int kSteps = 50;
constexpr int kBatches = 5;  // Then they come again.

/// "MODEL:VARIANT:BATCH:LR"
struct Scenario {
  explicit Scenario(const std::string& text) {
    std::istringstream in(text);
    std::string part;
    std::getline(in, model, ':');
    std::getline(in, variant, ':');
    std::getline(in, part, ':');
    batch = std::stoi(part);
    std::getline(in, part, ':');
    lr = std::stod(part);
  }
  std::string model, variant;
  int batch = 0;
  double lr = 0;
};

/// Goes left, right or neither way; one layer is in no way at all.
struct ForkedImpl : bench::StepModelImpl {
  ForkedImpl() {
    register_module("trunk", trunk);
    register_module("left", left);
    register_module("right", right);
    register_module("never", never);
    register_module("head", head);
  }
  torch::Tensor forward(const torch::Tensor& inputs) override {
    at::Tensor x = at::relu(trunk(inputs));
    if (way == "left") x = at::relu(left(x));
    if (way == "right") x = at::relu(right(x));
    return head(x);
  }
  torch::nn::Linear trunk{16, 32}, left{32, 32}, right{32, 32}, never{32, 32}, head{32, 10};
  std::string way;
};

bench::StepModel make(const std::string& model) {
  if (model == "forked") return bench::StepModel(std::shared_ptr<bench::StepModelImpl>(std::make_shared<ForkedImpl>()));
  for (const bench::ModelSpec& spec : bench::step_models()) {
    if (spec.name == model) return spec.make();
  }
  throw UsageError("no model is called " + model);
}

void load(const bench::StepModel& net, const std::string& path) {
  const std::string bytes = io::read_file(path);
  std::size_t at = 0;
  const at::NoGradGuard no_grad;
  for (at::Tensor& parameter : net->parameters()) {
    const auto nbytes = static_cast<std::size_t>(parameter.numel()) * sizeof(float);
    LS_CHECK(at + nbytes <= bytes.size(), path, " is too short");
    std::memcpy(parameter.data_ptr(), bytes.data() + at, nbytes);
    at += nbytes;
  }
  LS_CHECK(at == bytes.size(), path, " is too long");
}

at::Tensor integers(std::int64_t count, int salt) {
  const at::Tensor i = at::arange(count, at::kLong);
  return (i * 7919 + (i * i).remainder(1013) * 31 + salt * 104729).remainder(1009);
}

std::pair<at::Tensor, at::Tensor> batch_of(const Scenario& scenario, int salt) {
  if (scenario.model == "gpt") {
    const at::Tensor tokens = integers(scenario.batch * bench::kTokens, salt).remainder(bench::kVocabulary);
    const at::Tensor next = (tokens * 5 + 3).remainder(bench::kVocabulary);
    return {tokens.view({scenario.batch, -1}), next};
  }
  std::vector<std::int64_t> shape = {scenario.batch};
  if (scenario.model == "mlp" || scenario.model == "forked") {
    shape.push_back(scenario.model == "mlp" ? 784 : 16);
  } else {
    const std::int64_t side = scenario.model == "lenet" ? 32 : 64;
    shape.insert(shape.end(), {3, side, side});
  }
  const at::Tensor inputs = integers(c10::multiply_integers(shape), salt).to(at::kFloat) / 504.5 - 1;
  return {inputs.view(shape), (at::arange(scenario.batch, at::kLong) * 3 + salt).remainder(10)};
}

class Training {
 public:
  Training(const Scenario& scenario, const std::shared_ptr<ProcessGroup>& group, const std::string& weights)
      : scenario_(scenario), rank_(group->rank()), net_(make(scenario.model)) {
    load(net_, weights);
    DdpOptions options;
    options.find_unused_parameters = scenario.variant == "unused";
    options.static_graph = scenario.variant == "static";
    ddp_.emplace(net_, group, options);
    if (scenario.variant == "fp16") ddp_->register_comm_hook(fp16_compress_hook());
    optimizer_.emplace(net_->parameters(), torch::optim::SGDOptions(scenario.lr).momentum(0.9));
  }

  std::vector<double> run() {
    const bool joins = scenario_.variant.starts_with("join");
    const auto loop = [&] {
      for (int number = 0; number < (joins && rank_ == 0 ? kSteps * 3 / 5 : kSteps); ++number) step(number);
    };
    if (joins) {
      ddp_->join(loop, {.divide_by_initial_world_size = scenario_.variant == "join"});
    } else {
      loop();
    }
    return std::move(losses_);
  }

 private:
  void step(int number) {
    optimizer_->zero_grad();
    if (auto* const forked = dynamic_cast<ForkedImpl*>(net_.get())) {
      const std::string by_rank = rank_ == 1 ? "right" : number % 2 == 0 ? "left" : "";
      forked->way = scenario_.variant == "unused" ? by_rank : "left";
    }
    const int micros = scenario_.variant == "no_sync" ? 2 : 1;
    double total = 0;
    for (int micro = 0; micro < micros; ++micro) {
      const auto [inputs, targets] = batch_of(scenario_, number % kBatches * kWorld + rank_ + 100 * micro);
      std::optional<NoSyncGuard> guard;
      if (micro + 1 < micros) guard.emplace(ddp_->engine());
      const at::Tensor output = ddp_->forward(inputs);
      const at::Tensor loss = at::cross_entropy_loss(output.flatten(0, -2), targets) / micros;
      loss.backward();
      total += loss.item<double>();
    }
    optimizer_->step();
    losses_.push_back(total);
  }

  const Scenario scenario_;
  int rank_;
  bench::StepModel net_;
  std::optional<DistributedDataParallel<bench::StepModel>> ddp_;
  std::optional<torch::optim::SGD> optimizer_;
  std::vector<double> losses_;
};

LOCKSTEP_WORKER(trains_as_pytorch_does) {
  at::set_num_threads(1);
  const Job job = init_from_environment();
  const auto group = std::make_shared<ProcessGroup>(job.communicator, job.environment, job.store);
  nlohmann::json losses;
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    losses[arguments[i]] = Training(Scenario(arguments[i]), group, arguments[0] + "/" + arguments[i]).run();
  }
  std::cout << losses.dump() << std::endl;
  return 0;
}

bool has_python_torch() {
  return support::run_program({"/usr/bin/env", "PYTHONNOUSERSITE=1", "/usr/bin/python3", "-c", "import torch"}).ok();
}

void expect_equal_losses(const Arguments& scenarios) {
  if (!has_python_torch()) GTEST_SKIP() << "python3-torch is not installed";
  const io::TempDirectory directory("ddp");
  support::ProcessOptions options;
  options.deadline = std::chrono::seconds(100);
  Arguments reference = {"/usr/bin/python3", std::string(LOCKSTEP_SOURCE_DIR) + "/tests/e2e/ddp_models.py",
                         directory.path(), std::to_string(kSteps)};
  reference.insert(reference.end(), scenarios.begin(), scenarios.end());
  options.tell_ranks = false;
  const auto python = support::run_program(reference, options);
  ASSERT_TRUE(python.ok()) << python.err;
  const auto theirs = nlohmann::json::parse(python.out);
  Arguments arguments = {directory.path()};
  arguments.insert(arguments.end(), scenarios.begin(), scenarios.end());
  options.tell_ranks = true;
  const auto ours = support::run_processes(kWorld, "trains_as_pytorch_does", arguments, options);
  ASSERT_TRUE(ours.ok()) << ours;
  for (const std::string& scenario : scenarios) {
    double largest = 0;
    for (std::size_t rank = 0; rank < kWorld; ++rank) {
      const auto a = theirs[scenario][rank].get<std::vector<double>>();
      const auto b = nlohmann::json::parse(ours.ranks[rank].out)[scenario].get<std::vector<double>>();
      ASSERT_EQ(a.size(), b.size()) << scenario;
      ASSERT_GE(b.size(), static_cast<std::size_t>(kSteps * 3 / 5));
      for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
      // Training moves the loss of the same batch by far more than the bound, so that agreement means something.
      EXPECT_LT(b[(b.size() - 1) / kBatches * kBatches], b[0] - 1e-3) << scenario;
    }
    std::cout << scenario << ": losses differ by " << largest << " at most" << std::endl;
    EXPECT_LT(largest, 1e-5) << scenario;
  }
}

TEST(DdpAndPyTorch, LoseTheSameWithEachOption) {
  expect_equal_losses({"lenet:plain:16:0.05", "lenet:no_sync:16:0.05", "lenet:static:16:0.05", "lenet:fp16:16:0.05",
                       "lenet:join:16:0.05", "lenet:join of those that are left:16:0.05", "forked:unused:8:0.05",
                       "forked:static:8:0.05"});
}
TEST(DdpAndPyTorch, LoseTheSameWithMlp) { expect_equal_losses({"mlp:plain:16:0.002", "mlp:no_sync:8:0.002"}); }
TEST(DdpAndPyTorch, LoseTheSameWithResNet18) { expect_equal_losses({"resnet18:plain:4:0.0005"}); }
TEST(DdpAndPyTorch, LoseTheSameWithGpt) { expect_equal_losses({"gpt:plain:1:0.005"}); }

}  // namespace
}  // namespace lockstep
