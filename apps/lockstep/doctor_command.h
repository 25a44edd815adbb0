#pragma once

namespace CLI {
class App;
}

namespace lockstep {

/// Adds `lockstep doctor` to the command line. Alone it looks over the job that it is a rank of; a subcommand looks at
/// what a job left. Runs in the parser's callback and sets `exit_code`: 0 all is well, or it has been read, whatever it
/// says; 1 a problem was found, the ranks did not meet, or a part of what was read is not valid; 2 usage. Findings go
/// to stdout, everything else to stderr.
void add_doctor_command(CLI::App& app, int& exit_code);

}  // namespace lockstep
