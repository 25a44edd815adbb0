// lockstep: the one program of the core wing. It starts in milliseconds, so whatever needs libtorch is another program.

#include <algorithm>
#include <iomanip>
#include <iostream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "apps/lockstep/bench_command.h"
#include "apps/lockstep/doctor_command.h"
#include "apps/lockstep/run_command.h"
#include "apps/lockstep/train_command.h"
#include "lockstep/core/base/environment.h"

namespace lockstep {
namespace {

void print_environment_table() {
  std::size_t name = 0;
  std::size_t type = 0;
  std::size_t value = 0;
  for (const EnvironmentVariable& row : environment_table()) {
    name = std::max(name, row.name.size());
    type = std::max(type, row.type.size());
    value = std::max(value, row.default_value.size());
  }
  const auto column = [](std::size_t width, std::string_view text) {
    std::cout << std::left << std::setw(static_cast<int>(width) + 2) << text;
  };
  const auto print = [&](const EnvironmentVariable& row) {
    column(name, row.name);
    column(type, row.type);
    column(value, row.default_value);
    std::cout << row.meaning << "\n";
  };
  print({"NAME", "TYPE", "DEFAULT", "MEANING"});
  for (const EnvironmentVariable& row : environment_table()) print(row);
}

/// `lockstep help [TOPIC]`
int help_command(const CLI::App& app, const std::string& topic) {
  if (topic.empty()) {
    std::cout << app.help();
  } else if (topic == "env") {
    print_environment_table();
  } else if (topic == "run") {
    return run_command({"--help"});
  } else if (topic == "train") {
    return train_command({"--help"});
  } else {
    for (const CLI::App* const command : app.get_subcommands([](const CLI::App*) { return true; })) {
      if (command->get_name() != topic) continue;
      std::cout << command->help(app.get_name());
      return 0;
    }
    std::cerr << "lockstep help: '" << topic << "' is no topic; there is env, and each command (see lockstep --help)\n";
    return 2;
  }
  return 0;
}

int run(int argc, char** argv) {
  // The arguments of these two are not ours alone: a worker's program and the trainer have their own.
  const std::string first = argc > 1 ? argv[1] : "";
  if (first == "run") return run_command({argv + 2, argv + argc});
  if (first == "train") return train_command({argv + 2, argv + argc});

  int exit_code = 0;
  CLI::App app("Lockstep: distributed training for C++ and libtorch.", "lockstep");
  app.set_version_flag("--version", "lockstep " LOCKSTEP_VERSION);
  app.add_subcommand("run", "start the workers of a job on this host and watch over them");
  app.add_subcommand("train", "train a model (the program lockstep-train)");
  add_bench_command(app, exit_code);
  add_doctor_command(app, exit_code);
  std::string topic;
  CLI::App* const help = app.add_subcommand("help", "this text, or about a TOPIC: env, run, train ...");
  help->add_option("topic", topic, "env: the environment variables; or a command");
  app.add_subcommand("version", "print the version")->callback([] {
    std::cout << "lockstep " << LOCKSTEP_VERSION << "\n";
  });
  // Not parsed as the others are: a command's name as a topic would be taken for that command.
  if (first == "help" && (argc == 2 || *argv[2] != '-')) {
    if (argc <= 3) return help_command(app, argc == 3 ? argv[2] : "");
    std::cerr << "lockstep help: one topic at a time (see lockstep help --help)\n";
    return 2;
  }
  if (argc == 1) {
    std::cout << app.help();
    return 0;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    std::cerr << "lockstep: " << error.what() << " (see lockstep --help)\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "lockstep: " << error.what() << "\n";
    return 1;
  }
  return exit_code;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) { return lockstep::run(argc, argv); }
