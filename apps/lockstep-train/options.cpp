#include "apps/lockstep-train/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <system_error>

#include <CLI/CLI.hpp>

#include "lockstep/core/base/check.h"

namespace lockstep::app {
namespace {

constexpr const char* kDescription =
    "Trains an image classifier with data parallelism: on one worker, or on as many as the launcher started.\n"
    "\n"
    "  lockstep-train --config apps/lockstep-train/configs/digits.toml --nproc-per-node 2\n"
    "  lockstep run --nproc-per-node 2 -- lockstep-train --dataset idx --data data/digits\n"
    "  lockstep-train compare main.jsonl control.jsonl\n";

constexpr const char* kFooter =
    "A configuration file is TOML; its keys are the flags without their dashes (batch-size = 32). Flags win.\n"
    "stdout: the results; its last line is one JSON object, {\"event\":\"summary\",...}. stderr: progress and errors.\n"
    "Exit codes: 0 done; 1 failed (data, machine, a worker); 2 bad flag, value or configuration.";

/// Makes a flag of each option.
struct AddFlags {
  CLI::App& app;
  template <typename T>
  void operator()(const char* name, T& value, const char* help) const {
    app.add_option(std::string("--") + name, value, help)->capture_default_str();
  }
  void operator()(const char* name, bool& value, const char* help) const {
    app.add_flag(std::string("--") + name, value, help);
  }
  void operator()(const char* name, std::vector<std::int64_t>& value, const char* help) const {
    app.add_option(std::string("--") + name, value, help)
        ->delimiter(',')
        ->allow_extra_args(false)
        ->capture_default_str();
  }
};

/// One pass of the flags over `command.options`; the name of the configuration file.
std::string parse_flags(std::vector<std::string> arguments, Command& command) {
  CLI::App app(kDescription, "lockstep-train");
  app.footer(kFooter);
  app.allow_extras();  // ... which are reported in our own words.
  app.get_formatter()->column_width(30);
  std::string config;
  app.add_option("--config", config, "read options from this TOML file");
  for_each_option(command.options, AddFlags{app});
  CLI::App* const compare = app.add_subcommand(
      "compare", "print the summary of a run with the largest difference of its losses to a control");
  compare->add_option("MAIN", command.main_metrics, "metrics file of the run")->required();
  compare->add_option("CONTROL", command.control_metrics, "metrics file of the control")->required();
  try {
    std::ranges::reverse(arguments);  // CLI11 takes them from the back.
    app.parse(arguments);
  } catch (const CLI::CallForHelp&) {
    command.kind = Command::Kind::kHelp;
    command.help = (*compare ? compare : &app)->help();
    return {};
  } catch (const CLI::ParseError& error) {
    throw UsageError(base::cat(error.what(), " (see lockstep-train --help)"));
  }
  for (const std::string& extra : app.remaining(/*recurse=*/true)) {
    LS_REQUIRE(extra.starts_with('-'), "unexpected argument '", extra, "' (see lockstep-train --help)");
    throw UsageError(base::cat("unknown flag ", extra, " (see lockstep-train --help)"));
  }
  command.kind = *compare ? Command::Kind::kCompare : Command::Kind::kTrain;
  return config;
}

void require_one_of(const char* flag, const std::string& value, const std::vector<std::string>& choices) {
  if (std::ranges::find(choices, value) != choices.end()) return;
  std::string list;
  for (const auto& choice : choices) list += (list.empty() ? "" : ", ") + choice;
  throw UsageError(base::cat("--", flag, " '", value, "': expected one of ", list));
}

void require_at_least(const char* flag, std::int64_t value, std::int64_t least) {
  LS_REQUIRE(value >= least, "--", flag, " ", value, ": expected a whole number of at least ", least);
}

/// 0 where `text` is no whole number of at least 1.
std::int64_t parse_count(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() && number > 0 ? number : 0;
}

}  // namespace

std::pair<std::int64_t, std::int64_t> parse_trace_steps(const std::string& text) {
  const std::string_view view = text;
  const auto colon = view.find(':');
  const std::int64_t first = parse_count(view.substr(0, colon));
  const std::int64_t count = colon == view.npos ? 0 : parse_count(view.substr(colon + 1));
  LS_REQUIRE(first > 0 && count > 0, "--trace-steps '", text,
             "': expected FIRST:COUNT, two whole numbers of at least 1");
  return {first, count};
}

void validate(const Options& options) {
  require_one_of("model", options.model, {"mlp", "lenet"});
  require_one_of("dataset", options.dataset, {"idx", "cifar10"});
  require_one_of("lr-schedule", options.lr_schedule, {"constant", "cosine"});
  LS_REQUIRE(!options.data.empty(), "--data is missing: expected the directory of the data");
  for (const auto width : options.hidden) require_at_least("hidden", width, 1);
  require_at_least("epochs", options.epochs, 1);
  require_at_least("batch-size", options.batch_size, 1);
  require_at_least("seed", options.seed, 0);
  require_at_least("max-steps", options.max_steps, 0);
  require_at_least("eval-every", options.eval_every, 0);
  require_at_least("threads", options.threads, 0);
  require_at_least("nproc-per-node", options.nproc_per_node, 0);
  parse_trace_steps(options.trace_steps);
  LS_REQUIRE(options.lr > 0 && std::isfinite(options.lr), "--lr ", options.lr, ": expected a number above 0");
  LS_REQUIRE(options.momentum >= 0 && options.momentum < 1, "--momentum ", options.momentum,
             ": expected a number from 0 to below 1");
  LS_REQUIRE(options.timeout > 0 && options.timeout <= 1e9, "--timeout ", options.timeout,
             ": expected seconds, above 0 and at most 1e9");
}

Command parse_command_line(const std::vector<std::string>& arguments) {
  Command command;
  const std::string config = parse_flags(arguments, command);
  if (command.kind != Command::Kind::kTrain) return command;
  if (!config.empty()) {
    // The file's values replace the built-in ones, and then the flags have the last word.
    command.options = Options{};
    read_config(config, command.options);
    parse_flags(arguments, command);
  }
  validate(command.options);
  return command;
}

}  // namespace lockstep::app
