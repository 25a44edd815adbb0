#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep::app {

/// What a run is: the built-in values, then the configuration file's, then the flags'.
struct Options {
  std::string model = "lenet";
  std::vector<std::int64_t> hidden = {2048, 2048};
  std::string dataset = "idx";
  std::string data;
  std::int64_t epochs = 10;
  std::int64_t batch_size = 32;
  double lr = 0.05;
  double momentum = 0.9;
  std::string lr_schedule = "constant";
  std::int64_t seed = 0;
  std::int64_t max_steps = 0;
  std::int64_t eval_every = 1;
  std::int64_t threads = 0;
  std::int64_t nproc_per_node = 0;
  bool step_in_backward = false;
  double timeout = 300;
  std::string init;
  std::string output;
  std::string metrics;
  std::string trace;
  std::string trace_steps = "5:5";
  bool json = false;
  bool no_progress = false;
};

/// The one table of options: calls visit(name, member, help) for each. Flags, keys of the file and --help come from it.
template <typename Visitor>
void for_each_option(Options& options, Visitor&& visit) {
  visit("model", options.model, "mlp or lenet");
  visit("hidden", options.hidden, "widths of mlp's hidden layers");
  visit("dataset", options.dataset, "format of the data: idx (as MNIST's) or cifar10 (binary)");
  visit("data", options.data, "directory of the data");
  visit("epochs", options.epochs, "passes over the training data");
  visit("batch-size", options.batch_size, "samples of each worker per step");
  visit("lr", options.lr, "learning rate of SGD");
  visit("momentum", options.momentum, "momentum of SGD");
  visit("lr-schedule", options.lr_schedule, "constant, or cosine: from lr down to 0 over the run");
  visit("seed", options.seed, "of the first weights and of the order of the data");
  visit("max-steps", options.max_steps, "end after so many steps; 0: after the epochs");
  visit("eval-every", options.eval_every, "evaluate after every so many epochs; 0: at the end only");
  visit("threads", options.threads, "threads that compute in each worker; 0: OMP_NUM_THREADS, else the cores");
  visit("nproc-per-node", options.nproc_per_node, "start so many workers on this host; 0: be one process of the job");
  visit("step-in-backward", options.step_in_backward, "SGD steps on gradients while others are still on their way");
  visit("timeout", options.timeout, "seconds; longest wait for another worker");
  visit("init", options.init, "start from the weights in this file");
  visit("output", options.output, "write the weights here at the end");
  visit("metrics", options.metrics, "write a JSON line per step here");
  visit("trace", options.trace, "write what each worker did when here, for ui.perfetto.dev");
  visit("trace-steps", options.trace_steps, "which steps: FIRST:COUNT, counted from 1");
  visit("json", options.json, "on stdout nothing but the summary, one JSON line");
  visit("no-progress", options.no_progress, "nothing about progress on stderr");
}

/// What the command line asks for.
struct Command {
  enum class Kind { kTrain, kCompare, kHelp };
  Kind kind = Kind::kTrain;
  Options options;           ///< kTrain
  std::string main_metrics;  ///< kCompare
  std::string control_metrics;
  std::string help;  ///< kHelp: the text
};

/// Parses the arguments behind the program's name. Throws UsageError: an unknown flag or key, a value of the wrong kind
/// or out of range, a configuration that can't be read; names the flag, or file:line and key.
Command parse_command_line(const std::vector<std::string>& arguments);

/// Overwrites what `file` (TOML, keys as the flags without their dashes) says. Throws UsageError with file:line.
void read_config(const std::string& file, Options& options);

/// FIRST and COUNT of --trace-steps. Throws UsageError unless both are whole numbers of at least 1.
std::pair<std::int64_t, std::int64_t> parse_trace_steps(const std::string& text);

/// Throws UsageError that names the first option whose value makes no sense, and what was expected.
void validate(const Options& options);

}  // namespace lockstep::app
