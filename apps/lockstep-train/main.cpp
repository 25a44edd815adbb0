// lockstep-train: trains an image classifier on one worker or many.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <optional>
#include <string>

#include <torch/torch.h>

#include "apps/lockstep-train/job.h"
#include "apps/lockstep-train/launcher.h"
#include "apps/lockstep-train/options.h"
#include "lockstep/core/base/check.h"
#include "lockstep/parallel/group/process_group.h"

namespace lockstep::app {
namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;
constexpr auto kMeetToReport = std::chrono::seconds(5);  // how long a rank that can't go on waits to say so once

/// Why a process can't go on.
struct Failure {
  std::string text;  ///< one line
  int exit_code = kFailed;
};

/// The exception in flight. Call it in a catch block.
Failure current_failure() {
  try {
    throw;
  } catch (const UsageError& error) {
    return {error.what(), kUsage};
  } catch (const c10::Error& error) {
    // Behind the first line come the frames of libtorch.
    const std::string text = error.what_without_backtrace();
    return {text.substr(0, text.find('\n'))};
  } catch (const std::exception& error) {
    return {error.what()};
  }
}

void print_failure(const std::string& text) { std::fprintf(stderr, "lockstep-train: %s\n", text.c_str()); }

/// Collective: when a rank failed before the training, the first that did says so and all end with its exit code.
/// Else the same mistake would be printed once per rank, or never, where one rank ends before another has spoken.
std::optional<int> agree_on_failure(ProcessGroup& group, const std::optional<Failure>& failure) {
  at::Tensor codes = torch::zeros({group.world_size()}, torch::kInt64);
  at::Tensor code = torch::full({1}, failure ? failure->exit_code : 0, torch::kInt64);
  group.all_gather(codes, code, OpOptions{.timeout = {}, .label = "start-up state"});
  for (int rank = 0; rank < group.world_size(); ++rank) {
    const auto rank_code = codes[rank].item<int>();
    if (rank_code == 0) continue;
    if (rank == group.rank()) print_failure(failure->text);
    group.barrier();
    return rank_code;
  }
  return std::nullopt;
}

/// One process of a job, from joining it to its end.
int train_in_group(const Command& command, std::optional<Failure> failure) {
  const Options& options = command.options;
  const auto timeout = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(options.timeout));
  std::shared_ptr<ProcessGroup> group;
  try {
    const Duration init_timeout = failure ? std::min<Duration>(timeout, kMeetToReport) : timeout;
    group = init_process_group({.timeout = timeout, .init_timeout = init_timeout});
  } catch (const Error&) {
    if (!failure) throw;
    // The others are not coming, perhaps for the same reason: this rank speaks for itself.
    print_failure(failure->text);
    return failure->exit_code;
  }
  // Here, since joining gives each rank its share of the host's threads.
  if (options.threads > 0) at::set_num_threads(static_cast<int>(options.threads));
  std::optional<Inputs> inputs;
  if (!failure) {
    try {
      inputs = read_inputs(options);
      check_run(options, *inputs, *group);
    } catch (...) {
      failure = current_failure();
    }
  }
  if (const auto exit_code = agree_on_failure(*group, failure)) return *exit_code;
  run_job(options, *inputs, group);
  return EXIT_SUCCESS;
}

/// What needs no other process: help and comparisons.
int run_alone(const Command& command) {
  const bool help = command.kind == Command::Kind::kHelp;
  const std::string text = help ? command.help : compare_runs(command.main_metrics, command.control_metrics) + "\n";
  std::fputs(text.c_str(), stdout);
  return EXIT_SUCCESS;
}

int run(const std::vector<std::string>& arguments) {
  const RankEnvironment environment = read_rank_environment();
  Command command;
  std::optional<Failure> failure;
  try {
    command = parse_command_line(arguments);
    if (must_launch(command.options.nproc_per_node, environment)) {
      read_inputs(command.options);  // What would fail in each worker fails here, once.
      launch(command.options, arguments);
    }
  } catch (...) {
    failure = current_failure();
  }
  if (environment.world_size == 1 && failure) {
    print_failure(failure->text);
    return failure->exit_code;
  }
  if (!failure && command.kind != Command::Kind::kTrain) return environment.rank == 0 ? run_alone(command) : 0;
  return train_in_group(command, std::move(failure));
}

/// "rank 1/2: ..." unless the text says so itself.
std::string with_rank(const std::string& text) {
  if (text.starts_with("rank ")) return text;
  try {
    const RankEnvironment environment = read_rank_environment();
    if (environment.world_size == 1) return text;
    return base::cat("rank ", environment.rank, "/", environment.world_size, ": ", text);
  } catch (const Error&) {
    return text;
  }
}

}  // namespace
}  // namespace lockstep::app

int main(int argc, char** argv) {
  try {
    return lockstep::app::run({argv + 1, argv + argc});
  } catch (...) {
    const lockstep::app::Failure failure = lockstep::app::current_failure();
    lockstep::app::print_failure(lockstep::app::with_rank(failure.text));
    // Peers may be gone: leave without the destructors of libraries, which might wait for something.
    std::fflush(nullptr);
    std::_Exit(failure.exit_code);
  }
}
