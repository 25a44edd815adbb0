// What synchronisation costs a training step: the same ranks with DistributedDataParallel (`ddp`) and each on its own
// (`nosync`), in alternating blocks of steps within the same processes, so that both see the same minute of a noisy
// machine. With --with-pytorch its program takes turns with these ranks, round by round.

#include <exception>
#include <iostream>
#include <vector>

#include "bench/steps/job.h"
#include "bench/steps/options.h"
#include "bench/steps/table.h"
#include "lockstep/core/base/environment.h"

int main(int argc, char** argv) {
  using lockstep::bench::Json;
  lockstep::bench::StepOptions options = lockstep::bench::parse_options(argc, argv);
  try {
    std::vector<Json> rows;
    const auto emit = [&](const Json& row) {
      rows.push_back(row);
      if (options.json) std::cout << row.dump() << std::endl;
    };
    const lockstep::RankEnvironment job = lockstep::read_rank_environment();
    if (job.source != "none") {
      options.nproc = job.world_size;
      lockstep::bench::run_member(options, emit);
    } else {
      lockstep::bench::run_job(options, emit);
    }
    if (!options.json) lockstep::bench::print_table(std::cout, rows);
    return 0;
  } catch (const lockstep::UsageError& error) {
    std::cerr << "step_bench: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "step_bench: " << error.what() << '\n';
    return 1;
  }
}
