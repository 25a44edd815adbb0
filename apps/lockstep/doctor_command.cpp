#include "apps/lockstep/doctor_command.h"

#include <chrono>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "apps/lockstep/doctor/checkup_report.h"
#include "apps/lockstep/doctor/checkup_run.h"
#include "apps/lockstep/doctor/flight_report.h"
#include "lockstep/core/comm/init.h"

namespace lockstep {
namespace {

struct FlightOptions {
  std::string directory;
  bool json = false;
};

/// `lockstep doctor flight DIR`; returns the exit code.
int run_flight(const FlightOptions& options) {
  doctor::FlightFolder folder = doctor::read_flight_folder(options.directory);
  for (const CorruptionError& corrupt : folder.corrupt) {
    std::cerr << "lockstep doctor flight: " << doctor::printable(corrupt.what()) << '\n';
    if (options.json) std::cout << doctor::to_json(corrupt) << '\n';
  }
  for (const std::string& refused : folder.unreadable) {
    std::cerr << "lockstep doctor flight: " << doctor::printable(refused) << '\n';
    if (options.json) std::cout << doctor::unreadable_to_json(refused) << '\n';
  }
  const auto groups = doctor::flight_groups(std::move(folder.records));
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const auto findings = doctor::diagnose(groups[i]);
    if (options.json) {
      for (const doctor::Finding& finding : findings) std::cout << doctor::to_json(finding) << '\n';
      continue;
    }
    if (i != 0) std::cout << '\n';
    print_findings(std::cout, groups[i], findings);
    print_table(std::cout, groups[i]);
  }
  std::cout.flush();
  return folder.corrupt.empty() && folder.unreadable.empty() ? 0 : 1;
}

void add_flight(CLI::App& doctor, int& exit_code) {
  const auto options = std::make_shared<FlightOptions>();
  CLI::App* const command =
      doctor.add_subcommand("flight", "after a failure: which rank was missing in which operation");
  command->footer(
      "DIR is what LOCKSTEP_FLIGHT_DIR named while the job failed. Exit code: 0 the files were read, whatever they "
      "say;\n"
      "1 some file is not valid (the others are shown all the same); 2 no such folder, or no flight files in it.");
  command->add_option("directory", options->directory, "the folder with the flight_*.json files of the ranks")
      ->required()
      ->type_name("DIR");
  command->add_flag("--json", options->json, "one JSON object a line for each finding");
  command->callback([options, &exit_code] {
    try {
      exit_code = run_flight(*options);
    } catch (const UsageError& error) {
      std::cerr << "lockstep doctor flight: " << error.what() << '\n';
      exit_code = 2;
    } catch (const std::exception& error) {
      std::cerr << "lockstep doctor flight: " << error.what() << '\n';
      exit_code = 1;
    }
  });
}

struct CheckupOptions {
  double timeout_seconds = 60;
  bool json = false;
};

/// `lockstep doctor` in one rank; returns the exit code.
int run_checkup_command(const CheckupOptions& options) {
  const auto timeout = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(options.timeout_seconds));
  const Job job = init_from_environment({.name = "doctor", .timeout = timeout, .init_timeout = timeout});
  const doctor::Checkup checkup = doctor::run_checkup(job);
  std::vector<doctor::Problem> problems;
  if (job.communicator->rank() == 0) {
    problems = doctor::find_problems(checkup);
    if (options.json) {
      std::cout << to_json(checkup, problems) << '\n';
    } else {
      print_checkup(std::cout, checkup, problems);
    }
    std::cout.flush();
  }
  // A launcher may end everyone when the first rank ends with another code than 0.
  job.communicator->barrier();
  return problems.empty() ? 0 : 1;
}

void add_checkup(CLI::App& command, int& exit_code) {
  const auto options = std::make_shared<CheckupOptions>();
  command.footer(
      "Without a subcommand: start it as the program of a job, with any launcher, and all ranks look at each other:\n"
      "  lockstep run --nproc-per-node 2 -- lockstep doctor    |    mpirun -np 4 lockstep doctor    |    srun ...\n"
      "Rank 0 prints a page: hosts, clocks, links, what is wrong and the way out. Exit code: 0; of rank 0 1 where it\n"
      "found a problem; 1 where the ranks did not come together; 2 for a bad flag or environment.");
  command.add_flag("--json", options->json, "the page as one JSON object");
  command.add_option("--timeout", options->timeout_seconds, "seconds that the ranks wait for each other")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  command.callback([options, &command, &exit_code] {
    if (!command.get_subcommands().empty()) return;
    try {
      exit_code = run_checkup_command(*options);
    } catch (const UsageError& error) {
      std::cerr << "lockstep doctor: " << error.what() << '\n';
      exit_code = 2;
    } catch (const std::exception& error) {
      std::cerr << "lockstep doctor: " << error.what() << '\n';
      exit_code = 1;
    }
  });
}

}  // namespace

void add_doctor_command(CLI::App& app, int& exit_code) {
  CLI::App* const command = app.add_subcommand("doctor", "look over a job: hosts, clocks, links, settings");
  command->require_subcommand(0, 1);
  add_checkup(*command, exit_code);
  add_flight(*command, exit_code);
}

}  // namespace lockstep
