#pragma once

namespace CLI {
class App;
}

namespace lockstep {

/// Adds `lockstep bench` to the command line; when it is chosen it runs in the parser's callback and sets `exit_code`:
/// 0 done, 1 a failure or wrong values, 2 a bad flag. Results go to stdout, everything else to stderr.
void add_bench_command(CLI::App& app, int& exit_code);

}  // namespace lockstep
