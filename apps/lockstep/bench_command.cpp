// `lockstep bench OP`: this process measures the machine's limits, starts the ranks, and prints what they found. Where
// a launcher started it as one of several, it is a rank itself, and rank 0 prints.

#include "apps/lockstep/bench_command.h"

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <functional>
#include <iostream>
#include <memory>
#include <span>

#include <CLI/CLI.hpp>

#include "apps/lockstep/bench/communicator_engine.h"
#include "apps/lockstep/bench/explain.h"
#include "apps/lockstep/bench/limits.h"
#include "apps/lockstep/bench/report.h"
#include "apps/lockstep/bench/sweep.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/cpus.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/comm/build_backend.h"
#include "lockstep/core/comm/choose_backend.h"
#include "lockstep/core/comm/init.h"
#include "lockstep/core/launch/spawn.h"

namespace lockstep {
namespace {

using bench::SizeResult;

struct BenchOptions {
  std::string what = "all_reduce";
  bench::SweepOptions sweep;
  std::string memory = "backend";
  std::string backend = "auto";
  double timeout_seconds = 60;
  int retries = 0;
  bool explain = false;
  bool nproc_given = false;

  bool in_backend() const { return memory == "backend"; }
};

/// Results on their way from rank 0 to this process; in memory that the ranks inherit, so that what was measured
/// before a failure is not lost.
class ResultBoard {
 public:
  ResultBoard() : board_(map(), [](Board* board) { ::munmap(board, sizeof(Board)); }) {}

  void add(const SizeResult& result) {
    const std::size_t used = board_->used.load(std::memory_order_relaxed);
    LS_CHECK(used < kCapacity, "more sizes than a step factor of 2 allows");
    board_->results[used] = result;
    board_->used.store(used + 1, std::memory_order_release);
  }
  std::vector<SizeResult> results() const {
    const auto end = static_cast<std::ptrdiff_t>(board_->used.load(std::memory_order_acquire));
    return {board_->results.begin(), board_->results.begin() + end};
  }

 private:
  static constexpr std::size_t kCapacity = 64;  // Sizes at least double, and a size has 64 bits.
  struct Board {
    std::atomic<std::size_t> used;
    std::array<SizeResult, kCapacity> results;
  };

  static Board* map() {
    void* memory = ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw SystemError("mapping memory for the results", errno);
    return new (memory) Board();
  }

  std::unique_ptr<Board, void (*)(Board*)> board_;
};

Job join(const BenchOptions& options) {
  const auto timeout = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(options.timeout_seconds));
  return init_from_environment(
      {.backend = options.backend, .name = "bench", .timeout = timeout, .init_timeout = timeout});
}

/// What is wrong with the name by itself, as CLI11 wants it; require_backend() asks whether it can be had.
std::string check_backend_name(const std::string& name) {
  try {
    choose_backend(name, "auto", 1, {}, {.gloo = true, .mpi = true, .launched_by_mpi = true});
    return "";
  } catch (const UsageError& error) {
    return error.what();
  }
}

/// A backend that cannot be is told at once: not after the machine was measured, and not by each rank.
void require_backend(const BenchOptions& options) {
  const std::string asked =
      options.backend == "auto" ? environment_string("LOCKSTEP_BACKEND").value_or("auto") : options.backend;
  if (asked == "auto") return;  // what there is will do
  choose_backend(asked, environment_string("LOCKSTEP_NETWORK").value_or("auto"), options.sweep.world_size, {},
                 available_engines());
}

/// Every size on one rank; `on_result` is called on each.
void sweep(const BenchOptions& options, const Job& job, const std::function<void(const SizeResult&)>& on_result) {
  bench::CommunicatorEngine engine(job.communicator, options.sweep, options.in_backend());
  const bool watched = job.communicator->rank() == 0 && ::isatty(STDERR_FILENO) != 0;
  bench::run_sweep(engine, options.sweep, [&](const SizeResult& result) {
    on_result(result);
    if (watched) std::cerr << "\r\033[K" << bench::format_bytes(result.size.bytes) << " done" << std::flush;
  });
  if (watched) std::cerr << "\r\033[K" << std::flush;
  job.communicator->barrier();
}

/// What each rank that was started here runs.
void run_rank(const BenchOptions& options, const std::vector<int>& cpus, ResultBoard& board) {
  const Job job = join(options);
  const int rank = job.communicator->rank();
  // Spread evenly, also where ranks share CPUs: left alone, ranks that yield to each other gather on one of them.
  bench::pin_to_cpu(cpus[static_cast<std::size_t>(rank) % cpus.size()]);
  sweep(options, job, [&](const SizeResult& result) {
    if (rank == 0) board.add(result);
  });
}

/// Rank 0 says what the group would do.
void explain(const BenchOptions& options, const Job& job) {
  if (job.communicator->rank() == 0) {
    const bench::RowContext context{"lockstep", options.memory, options.sweep};
    const auto rows = bench::explain_sweep(*job.communicator, options.sweep, options.in_backend());
    if (options.sweep.json) {
      for (const bench::SizePaths& row : rows) std::cout << to_json(context, row) << std::endl;
    } else {
      bench::print_paths(std::cout, context, rows, bench::handoff_us(*job.communicator));
    }
  }
  job.communicator->barrier();
}

/// Forms a group that explains; returns the exit code.
int run_explain(const BenchOptions& options) {
  LS_REQUIRE(options.what != "limits", "--explain needs an operation: ", bench::known_operations());
  bench::require_explainable(options.sweep);
  bench::validate(options.sweep);
  require_backend(options);
  spawn([&options](int, int) { explain(options, join(options)); }, options.sweep.world_size, {.pin = false});
  return 0;
}

int exit_code_of(const std::vector<SizeResult>& results) {
  std::uint64_t wrong = 0;
  for (const SizeResult& result : results) wrong += result.wrong;
  if (wrong == 0) return 0;
  std::cerr << "lockstep bench: " << wrong << " wrong elements; please report this\n";
  return 1;
}

/// As a rank of the job that a launcher started; returns the exit code. Of the machine's limits nothing is said: the
/// ranks may be on any hosts.
int run_member(BenchOptions options, const RankEnvironment& self) {
  const auto who = base::cat("this is rank ", self.rank, " of ", self.world_size, ", as ", self.source, " started it");
  LS_REQUIRE(!options.nproc_given, "--nproc: ", who, "; leave the flag out, or run it without a launcher");
  LS_REQUIRE(options.what != "limits", "limits are one machine's: ", who, "; run it without a launcher");
  LS_REQUIRE(options.retries == 0, "--retry looks at the limits of one machine: ", who, "; leave the flag out");
  options.sweep.world_size = self.world_size;
  if (options.explain) bench::require_explainable(options.sweep);
  bench::validate(options.sweep);
  const Job job = join(options);
  if (options.explain) {
    explain(options, job);
    return 0;
  }
  const bench::RowContext context{"lockstep", options.memory, options.sweep};
  std::vector<SizeResult> results;
  const auto print = [&] {
    if (self.rank == 0 && !options.sweep.json && !results.empty()) print_table(std::cout, context, results, {});
    std::cout.flush();
  };
  try {
    sweep(options, job, [&](const SizeResult& result) {
      results.push_back(result);
      if (self.rank == 0 && options.sweep.json) std::cout << to_json(context, result, std::nullopt) << std::endl;
    });
  } catch (...) {
    print();  // what was measured before is not lost
    throw;
  }
  print();
  return exit_code_of(results);
}

void print_attempt(const BenchOptions& options, const std::vector<SizeResult>& results,
                   const bench::MachineLimits& before, const bench::MachineLimits& after) {
  const bench::RowContext context{"lockstep", options.memory, options.sweep};
  if (!options.sweep.json) {
    if (!results.empty()) bench::print_table(std::cout, context, results, before);
    bench::print_limits(std::cout, before, after);
  } else {
    const auto kind = options.in_backend() ? bench::MemoryKind::kBackend : bench::MemoryKind::kUser;
    for (const SizeResult& result : results) {
      std::cout << to_json(context, result, model_us(options.sweep, kind, result.size.bytes, before)) << '\n';
    }
    std::cout << to_json(before, after) << '\n';
  }
  std::cout.flush();
}

/// Measures until the machine held still, or the retries are used up; returns the exit code.
int run_bench(const BenchOptions& options) {
  bench::validate(options.sweep);
  if (options.what != "limits") require_backend(options);
  const std::vector<int> cpus = base::read_cpu_budget().cpus;
  const std::size_t largest = options.sweep.op == OpKind::kBarrier ? 0 : options.sweep.max_bytes;
  for (int attempt = 0;; ++attempt) {
    const auto before = bench::measure_limits(cpus, largest);
    ResultBoard board;
    std::exception_ptr failure;
    try {
      if (options.what != "limits") {
        spawn([&](int, int) { run_rank(options, cpus, board); }, options.sweep.world_size, {.pin = false});
      }
    } catch (...) {
      failure = std::current_exception();
    }
    const auto after = failure ? before : bench::measure_limits(cpus, largest);
    const bool steady = bench::handoff_change(before, after) <= bench::kSteadyChange;
    if (!steady) {
      std::cerr << "lockstep bench: cores moved apart (hand-off " << before.handoff_ns << " ns before, "
                << after.handoff_ns << " ns after); " << (attempt < options.retries ? "running again" : "run again")
                << '\n';
    }
    if (!steady && attempt < options.retries) continue;
    const std::vector<SizeResult> results = board.results();
    print_attempt(options, results, before, after);
    if (failure) std::rethrow_exception(failure);
    return exit_code_of(results);
  }
}

}  // namespace

void add_bench_command(CLI::App& app, int& exit_code) {
  const auto options = std::make_shared<BenchOptions>();
  CLI::App* command = app.add_subcommand("bench", "measure collectives, beside what this machine allows");
  command->add_option("operation", options->what, bench::known_operations() + "; or limits: the machine's own")
      ->capture_default_str();
  bench::add_sweep_flags(*command, options->sweep);
  command->add_option("--memory", options->memory, "backend: reduced without a copy; user: any other memory")
      ->check(CLI::IsMember({"backend", "user"}))
      ->capture_default_str();
  command->add_option("--backend", options->backend, "what carries the bytes: auto, self, shm, gloo, mpi, hier")
      ->check(check_backend_name)
      ->capture_default_str();
  command->add_option("--timeout", options->timeout_seconds, "seconds that the ranks wait for each other")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  command->add_flag("--explain", options->explain,
                    "measure nothing: print how each size would go, and the model's time of each way");
  command->add_option("--retry", options->retries, "runs to add while the hand-off between the cores changes")
      ->check(CLI::Range(0, 100))
      ->capture_default_str();
  command->callback([options, command, &exit_code] {
    try {
      if (options->what != "limits") options->sweep.op = bench::parse_op_kind(options->what);
      options->nproc_given = command->get_option("--nproc")->count() > 0;
      const RankEnvironment self = read_rank_environment();
      if (self.world_size > 1) {
        exit_code = run_member(*options, self);
      } else {
        exit_code = options->explain ? run_explain(*options) : run_bench(*options);
      }
    } catch (const UsageError& error) {
      std::cerr << "lockstep bench: " << error.what() << '\n';
      exit_code = 2;
    } catch (const std::exception& error) {
      std::cerr << "lockstep bench: " << error.what() << '\n';
      exit_code = 1;
    }
  });
}

}  // namespace lockstep
