#include "bench/steps/options.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include <CLI/CLI.hpp>

#include "bench/steps/models/model.h"

namespace lockstep::bench {
namespace {

constexpr const char* kAbout =
    "What synchronisation costs a training step: DistributedDataParallel against the same ranks without it, and with\n"
    "no more than a barrier behind backward, in alternating blocks of steps of one run; the number is the slowest\n"
    "rank's median step, the median of the rounds";

void add_options(CLI::App& app, StepOptions& options) {
  std::vector<std::string> names = {"all"};
  for (const ModelSpec& model : step_models()) names.emplace_back(model.name);
  app.add_option("--model", options.models, "one or more, or all")
      ->check(CLI::IsMember(names))
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--nproc", options.nproc, "ranks")->check(CLI::Range(1, 256))->capture_default_str();
  app.add_option("--threads", options.threads, "threads of each rank")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--bucket-mib", options.bucket_mib, "largest bucket of gradients, in MiB (default: as DdpOptions)")
      ->check(CLI::Range(0.01, 1024.0));
  app.add_option("--hook", options.hook, "communication hook: gradients travel as they are, or rounded to 16 bits")
      ->check(CLI::IsMember({"none", "fp16", "bf16"}))
      ->capture_default_str();
  app.add_flag("--step-in-backward", options.step_in_backward,
               "of DDP: the optimizer steps on each bucket while later ones are on their way");
  app.add_option("--blocks", options.blocks, "blocks of steps of each mode in a round")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--steps", options.steps, "steps of a block (default: some tenths of a second's)")
      ->check(CLI::Range(1, 10000));
  app.add_option("--rounds", options.rounds, "runs of each program, in turn")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--timeout", options.timeout_seconds, "seconds that the ranks wait for each other")
      ->check(CLI::Range(1.0, 86400.0))
      ->capture_default_str();
  app.add_flag("--json", options.json, "one JSON object a line, of every round");
  app.add_flag("--with-pytorch", options.with_pytorch, "also PyTorch's own DistributedDataParallel, from Python");
  auto* memory = app.add_flag("--memory", options.memory, "instead: memory of a rank, with and without");
  app.add_flag("--host-cost", options.host_cost, "instead: what a parameter costs where nothing is communicated")
      ->excludes(memory);
}

}  // namespace

Duration StepOptions::timeout() const {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(timeout_seconds));
}

StepOptions parse_options(int argc, char** argv) {
  StepOptions options;
  CLI::App app(kAbout);
  add_options(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error) == 0 ? 0 : 2);
  }
  if (std::ranges::count(options.models, "all") > 0) {
    options.models.clear();
    for (const ModelSpec& model : step_models()) options.models.emplace_back(model.name);
  }
  return options;
}

}  // namespace lockstep::bench
