// What synchronisation costs a training step: the same ranks with DistributedDataParallel (`ddp`) and each on its own
// (`nosync`), in alternating blocks of steps within the same processes, so that both see the same minute of a noisy
// machine. The number is the slowest rank's median step.

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iomanip>
#include <iostream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "bench/step_models.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/launch/spawn.h"
#include "lockstep/parallel/ddp/distributed_data_parallel.h"
#include "lockstep/parallel/group/memory_policy.h"
#include "lockstep/parallel/group/process_group.h"

namespace {

using Json = nlohmann::ordered_json;
using SteadyClock = std::chrono::steady_clock;

struct Options {
  std::string model = "mlp";
  int nproc = 2;
  double bucket_mib = 25;
  int threads = 1;
  int blocks = 20;  ///< of each mode
  int steps = 10;   ///< per block, after one that is not counted
  double timeout_seconds = 120;
  bool json = false;
  bool with_pytorch = false;
};

/// What decides about the speed of the products and of memory, as this process found it.
Json environment(bool memory_kept) {
  Json found = {{"freed_memory", memory_kept ? "kept" : "as the C library does"}};
  for (const char* name : {"OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OPENBLAS_L2_SIZE",
                           "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}) {
    if (const char* value = std::getenv(name)) found[name] = value;
  }
  return found;
}

struct ModeResult {
  double step_ms = 0;  ///< the slowest rank's median
  double wait_ms = 0;  ///< of a step, waiting for communication; the same
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double largest_over_ranks(lockstep::ProcessGroup& world, double mine) {
  auto value = torch::tensor({mine}, torch::kFloat64);
  world.all_reduce(value, lockstep::ReduceOp::kMax);
  return value.item<double>();
}

/// Training of one replica: the module, its optimizer and this rank's batch.
template <typename Holder, typename Forward>
class Trainer {
 public:
  Trainer(Holder net, Forward forward)
      : forward_(std::move(forward)),
        optimizer_(net->parameters(), torch::optim::SGDOptions(0.01).momentum(0.9)),
        images_(std::decay_t<decltype(*net)>::sample_batch()),
        labels_(torch::randint(lockstep::bench::kStepClasses, {lockstep::bench::kStepBatch})) {}

  /// Milliseconds of each of `steps` steps, after one that brings the replica's memory back into cache; `after_step`
  /// is called after each of them.
  template <typename AfterStep>
  void run_block(int steps, std::vector<double>& times, AfterStep after_step) {
    for (int step = -1; step < steps; ++step) {
      const auto start = SteadyClock::now();
      optimizer_.zero_grad();
      auto loss = torch::cross_entropy_loss(forward_(images_), labels_);
      loss.backward();
      optimizer_.step();
      if (step < 0) continue;
      times.push_back(std::chrono::duration<double, std::milli>(SteadyClock::now() - start).count());
      after_step();
    }
  }

 private:
  Forward forward_;
  torch::optim::SGD optimizer_;
  torch::Tensor images_;
  torch::Tensor labels_;
};

/// Replicas must be bit-identical after training; throws InternalError otherwise.
void require_equal_replicas(lockstep::ProcessGroup& world, const std::vector<torch::Tensor>& parameters) {
  for (const torch::Tensor& parameter : parameters) {
    auto theirs = parameter.detach().clone();
    world.broadcast(theirs, 0);
    LS_CHECK(torch::equal(theirs, parameter), "rank ", world.rank(),
             " does not hold rank 0's parameters after training");
  }
}

/// Runs on each rank; the result is the same on all of them.
template <typename Holder>
std::pair<ModeResult, ModeResult> measure(const std::shared_ptr<lockstep::ProcessGroup>& world,
                                          const Options& options) {
  torch::manual_seed(0);
  Holder alone;
  torch::manual_seed(0);
  Holder replicated;
  lockstep::DdpOptions ddp_options;
  ddp_options.bucket_cap_bytes = static_cast<std::size_t>(options.bucket_mib * (1 << 20));
  lockstep::DistributedDataParallel ddp(replicated, world, ddp_options);
  torch::manual_seed(100 + world->rank());
  Trainer nosync(alone, [&](const torch::Tensor& images) { return alone->forward(images); });
  Trainer synced(replicated, [&](const torch::Tensor& images) { return ddp.forward(images); });

  const auto nothing = [] {};
  std::vector<double> waits;
  const auto note_wait = [&] { waits.push_back(1e3 * lockstep::seconds(ddp.stats().last_wait)); };
  std::vector<double> warm_up;
  nosync.run_block(options.steps, warm_up, nothing);
  synced.run_block(options.steps, warm_up, nothing);
  std::vector<double> nosync_times;
  std::vector<double> ddp_times;
  for (int block = 0; block < options.blocks; ++block) {
    world->barrier();
    nosync.run_block(options.steps, nosync_times, nothing);
    world->barrier();
    synced.run_block(options.steps, ddp_times, note_wait);
  }
  require_equal_replicas(*world, replicated->parameters());
  return {{largest_over_ranks(*world, median(nosync_times)), 0.0},
          {largest_over_ranks(*world, median(ddp_times)), largest_over_ranks(*world, median(waits))}};
}

double samples_per_second(const Options& options, double step_ms) {
  return static_cast<double>(lockstep::bench::kStepBatch) * options.nproc / step_ms * 1e3;
}

void print_json(const Options& options, const char* mode, const ModeResult& result, const Json& environment) {
  const auto rounded = [](double value) { return std::round(value * 1e3) / 1e3; };
  std::cout << Json{{"event", "step"},
                    {"peer", "lockstep"},
                    {"model", options.model},
                    {"mode", mode},
                    {"nproc", options.nproc},
                    {"threads", options.threads},
                    {"step_ms", rounded(result.step_ms)},
                    {"samples_per_s", rounded(samples_per_second(options, result.step_ms))},
                    {"wait_ms", rounded(result.wait_ms)},
                    {"steps", options.blocks * options.steps},
                    {"torch", TORCH_VERSION},
                    {"environment", environment}}
                   .dump()
            << std::endl;
}

void print_table(const Options& options, const ModeResult& nosync, const ModeResult& ddp, const Json& environment) {
  std::cout << options.model << ", " << options.nproc << " ranks of " << options.threads << " thread(s), batch "
            << lockstep::bench::kStepBatch << " each, libtorch " << TORCH_VERSION << ", " << environment.dump() << '\n'
            << std::fixed << std::setprecision(2);
  const auto line = [&](const char* mode, const ModeResult& result) {
    std::cout << "  lockstep " << std::left << std::setw(8) << mode << std::right << std::setw(9) << result.step_ms
              << " ms a step" << std::setw(12) << samples_per_second(options, result.step_ms) << " samples/s, waits "
              << result.wait_ms << " ms\n";
  };
  line("nosync", nosync);
  line("ddp", ddp);
  std::cout << "  lockstep ddp reaches " << std::setprecision(1) << 100 * nosync.step_ms / ddp.step_ms << " % of nosync"
            << std::endl;
}

void run_rank(const Options& options) {
  const Json found = environment(lockstep::keep_freed_memory());
  at::set_num_threads(options.threads);
  const auto timeout =
      std::chrono::duration_cast<lockstep::Duration>(std::chrono::duration<double>(options.timeout_seconds));
  const auto world = lockstep::init_process_group({.name = "bench", .timeout = timeout, .init_timeout = timeout});
  const auto [nosync, ddp] = options.model == "mlp" ? measure<lockstep::bench::Mlp>(world, options)
                                                    : measure<lockstep::bench::LeNet>(world, options);
  if (world->rank() == 0) {
    if (options.json) {
      print_json(options, "nosync", nosync, found);
      print_json(options, "ddp", ddp, found);
    } else {
      print_table(options, nosync, ddp, found);
    }
  }
  world->barrier();
}

/// Runs a program to its end and returns its exit code; 127 where it cannot be started.
int run_program(const std::vector<std::string>& arguments) {
  const pid_t pid = LS_SYSCALL(::fork(), "starting ", arguments.front());
  if (pid == 0) {
    std::vector<char*> pointers;
    for (const std::string& argument : arguments) pointers.push_back(const_cast<char*>(argument.c_str()));
    pointers.push_back(nullptr);
    ::execvp(pointers.front(), pointers.data());
    ::_exit(127);
  }
  int status = 0;
  LS_SYSCALL(::waitpid(pid, &status, 0), "waiting for ", arguments.front());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/// The peer's own program, which prints the same lines: PyTorch's DistributedDataParallel on Gloo.
int run_pytorch(const Options& options) {
  for (const std::string python : {"python3", "/usr/bin/python3"}) {
    const std::string probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)";
    if (run_program({python, "-c", probe}) != 0) continue;
    std::vector<std::string> command = {
        python,      std::string(LOCKSTEP_BENCH_SOURCE_DIR) + "/peers/torch_ddp_bench.py",
        "--model",   options.model,
        "--nproc",   std::to_string(options.nproc),
        "--threads", std::to_string(options.threads),
        "--blocks",  std::to_string(options.blocks),
        "--steps",   std::to_string(options.steps)};
    if (options.json) command.push_back("--json");
    return run_program(command);
  }
  std::cerr << "step_bench: no python3 with torch here; install python3-torch or leave out --with-pytorch\n";
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("What synchronisation costs a training step: DistributedDataParallel against the same ranks without it");
  app.add_option("--model", options.model)->check(CLI::IsMember({"mlp", "lenet"}))->capture_default_str();
  app.add_option("--nproc", options.nproc, "ranks")->check(CLI::Range(1, 256))->capture_default_str();
  app.add_option("--threads", options.threads, "threads of each rank")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--bucket-mib", options.bucket_mib, "largest bucket of gradients, in MiB")
      ->check(CLI::Range(0.01, 1024.0))
      ->capture_default_str();
  app.add_option("--blocks", options.blocks, "blocks of steps of each mode")->check(CLI::Range(1, 10000));
  app.add_option("--steps", options.steps, "steps of a block")->check(CLI::Range(1, 10000));
  app.add_option("--timeout", options.timeout_seconds, "seconds that the ranks wait for each other");
  app.add_flag("--json", options.json, "one JSON object a line");
  app.add_flag("--with-pytorch", options.with_pytorch, "also run PyTorch's own DistributedDataParallel, from Python");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    const lockstep::RankEnvironment job = lockstep::read_rank_environment();
    if (job.source != "none") {
      options.nproc = job.world_size;
      run_rank(options);
      return 0;
    }
    lockstep::spawn([&](int, int) { run_rank(options); }, options.nproc);
    return options.with_pytorch ? run_pytorch(options) : 0;
  } catch (const std::exception& error) {
    std::cerr << "step_bench: " << error.what() << '\n';
    return 1;
  }
}
