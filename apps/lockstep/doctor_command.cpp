#include "apps/lockstep/doctor_command.h"

#include <iostream>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "apps/lockstep/doctor/flight_report.h"

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

}  // namespace

void add_doctor_command(CLI::App& app, int& exit_code) {
  CLI::App* const command = app.add_subcommand("doctor", "find out what is wrong with a job");
  command->require_subcommand(1);
  add_flight(*command, exit_code);
}

}  // namespace lockstep
