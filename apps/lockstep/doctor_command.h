#pragma once

namespace CLI {
class App;
}

namespace lockstep {

/// Adds `lockstep doctor` to the command line, with a subcommand for each thing that it can look at; the chosen one
/// runs in the parser's callback and sets `exit_code`: 0 it has been read, whatever it says; 1 a part of it is not
/// valid; 2 usage. Findings go to stdout, everything else to stderr.
void add_doctor_command(CLI::App& app, int& exit_code);

}  // namespace lockstep
