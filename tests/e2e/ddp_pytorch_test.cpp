// Two ranks lose, step by step, what two ranks of PyTorch's DistributedDataParallel lose: the models of the step
// benchmark, each with each of DDP's options.

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
#include "lockstep/parallel/nn/sync_batch_norm.h"
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

/// A model with one layer more that only some forwards use, and another that none does.
struct WithSpareImpl : bench::StepModelImpl {
  WithSpareImpl(const bench::StepModel& net, std::int64_t classes)
      : net_(register_module("net", net.ptr())), spare_(classes, classes), never_(classes, classes) {
    register_module("spare", spare_);
    register_module("never", never_);
  }
  torch::Tensor forward(const torch::Tensor& inputs) override {
    const torch::Tensor x = net_->forward(inputs);
    return uses_spare ? x + spare_(x) : x;
  }
  bool uses_spare = true;

 private:
  std::shared_ptr<bench::StepModelImpl> net_;
  torch::nn::Linear spare_, never_;
};

bench::StepModel make(const Scenario& scenario) {
  for (const bench::ModelSpec& spec : bench::step_models()) {
    if (spec.name != scenario.model) continue;
    bench::StepModel net = spec.make();
    if (scenario.variant != "unused" && scenario.variant != "static") return net;
    const std::int64_t classes = scenario.model == "gpt" ? bench::kVocabulary : bench::kClasses;
    return bench::StepModel(std::shared_ptr<bench::StepModelImpl>(std::make_shared<WithSpareImpl>(net, classes)));
  }
  throw UsageError("no model is called " + scenario.model);
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

std::pair<at::Tensor, at::Tensor> batch_of(const Scenario& scenario, int samples, int salt) {
  if (scenario.model == "gpt") {
    const at::Tensor tokens = integers(samples * bench::kTokens, salt).remainder(bench::kVocabulary);
    const at::Tensor next = (tokens * 5 + 3).remainder(bench::kVocabulary);
    return {tokens.view({samples, -1}), next};
  }
  std::vector<std::int64_t> shape = {samples};
  if (scenario.model == "mlp") {
    shape.push_back(784);
  } else {
    const std::int64_t side = scenario.model == "lenet" ? 32 : 64;
    shape.insert(shape.end(), {3, side, side});
  }
  const at::Tensor inputs = integers(c10::multiply_integers(shape), salt).to(at::kFloat) / 504.5 - 1;
  return {inputs.view(shape), (at::arange(samples, at::kLong) * 3 + salt).remainder(10)};
}

class Training {
 public:
  Training(const Scenario& scenario, const std::shared_ptr<ProcessGroup>& group, const std::string& weights)
      : scenario_(scenario),
        rank_(group->rank()),
        synchronises_norms_(scenario.variant == "sync_batch_norm"),
        net_(make(scenario)) {
    load(net_, weights);
    if (synchronises_norms_) net_->to(at::kDouble);
    if (synchronises_norms_) convert_sync_batch_norm(*net_, group->new_group({0, 1}));
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
    if (scenario_.variant == "unused") {
      dynamic_cast<WithSpareImpl&>(*net_).uses_spare = rank_ == 1 ? number % 3 == 0 : number % 2 == 0;
    }
    const int micros = scenario_.variant == "no_sync" ? 2 : 1;
    double total = 0;
    // There, batches are unequal; losses that count for their samples make the mean over ranks that over samples.
    const int samples = scenario_.batch + (synchronises_norms_ ? rank_ : 0);
    const double weight = synchronises_norms_ ? samples * kWorld / (kWorld * scenario_.batch + 1.0) : 1.0;
    for (int micro = 0; micro < micros; ++micro) {
      const auto [inputs, targets] = batch_of(scenario_, samples, number % kBatches * kWorld + rank_ + 100 * micro);
      std::optional<NoSyncGuard> guard;
      if (micro + 1 < micros) guard.emplace(ddp_->engine());
      const at::Tensor output = ddp_->forward(synchronises_norms_ ? inputs.to(at::kDouble) : inputs);
      const at::Tensor loss = at::cross_entropy_loss(output.flatten(0, -2), targets) / micros;
      (loss * weight).backward();
      total += loss.item<double>();
    }
    optimizer_->step();
    losses_.push_back(total);
  }

  const Scenario scenario_;
  int rank_;
  const bool synchronises_norms_;
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
  options.deadline = std::chrono::seconds(250);
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

const Arguments kEachOption = {"plain", "no_sync", "unused", "static", "join", "fp16"};

void expect_equal_losses(const std::string& model, const Arguments& variants, const std::string& batch_and_lr) {
  Arguments scenarios;
  for (const std::string& variant : variants) scenarios.push_back(model + ":" + variant + ":" + batch_and_lr);
  expect_equal_losses(scenarios);
}

TEST(DdpAndPyTorch, LoseTheSameWithLeNet) { expect_equal_losses("lenet", kEachOption, "16:0.05"); }
TEST(DdpAndPyTorch, LoseTheSameWithMlp) { expect_equal_losses("mlp", kEachOption, "8:0.002"); }
TEST(DdpAndPyTorch, LoseTheSameWithGpt) { expect_equal_losses("gpt", kEachOption, "1:0.005"); }
TEST(DdpAndPyTorch, LoseTheSameWithResNet18) {
  expect_equal_losses("resnet18", {"plain", "no_sync", "fp16"}, "4:0.0005");
}
TEST(DdpAndPyTorch, LoseTheSameWithResNet18WhereGradientsAreMissing) {
  expect_equal_losses("resnet18", {"unused", "static", "join"}, "4:0.0005");
}
TEST(DdpAndPyTorch, LoseTheSameWhereTheOthersGoOn) {
  expect_equal_losses("lenet", {"join of those that are left"}, "16:0.05");
}
// The reference has the whole batch in one process, and plain BatchNorm. Statistics that are combined differ from those
// in one piece by their rounding, which this network makes 10^5 times as large within 50 steps: so float64.
TEST(DdpAndPyTorch, LoseTheSameWithSyncBatchNorm) { expect_equal_losses("resnet18", {"sync_batch_norm"}, "4:0.0005"); }

}  // namespace
}  // namespace lockstep
