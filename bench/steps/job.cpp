#include "bench/steps/job.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sstream>
#include <utility>

#include "lockstep/core/base/check.h"
#include "lockstep/core/launch/process.h"
#include "lockstep/core/launch/spawn.h"

namespace lockstep::bench {
namespace {

/// Where ranks leave their rows: a file that has no name.
class Lines {
 public:
  Lines() : file_(std::tmpfile()) {
    if (!file_) throw SystemError("making a temporary file for results", errno);
  }

  int fd() const { return ::fileno(file_.get()); }
  void write(const Json& row) const {
    const std::string line = row.dump() + "\n";
    LS_SYSCALL(::write(fd(), line.data(), line.size()), "writing a result");
  }
  /// The JSON among what was written; anything else is left out.
  std::vector<Json> read() const {
    std::rewind(file_.get());
    std::string text;
    for (int c = std::fgetc(file_.get()); c != EOF; c = std::fgetc(file_.get())) text += static_cast<char>(c);
    std::vector<Json> rows;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("{")) rows.push_back(Json::parse(line));
    }
    return rows;
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Close> file_;
};

const ModelSpec& find_model(const std::string& name) {
  const auto models = step_models();
  const auto found = std::ranges::find(models, name, &ModelSpec::name);
  LS_CHECK(found != models.end(), "no model ", name);
  return *found;
}

/// The rows that `measure` returns on rank 0 of `nproc` new processes.
std::vector<Json> run_ranks(int nproc, const std::function<std::vector<Json>()>& measure) {
  const Lines lines;
  const auto body = [&](int rank, int) {
    const std::vector<Json> rows = measure();
    for (const Json& row : rows) {
      if (rank == 0) lines.write(row);
    }
  };
  spawn(body, nproc);
  return lines.read();
}

/// Runs a program to its end; true where that was exit code 0.
bool run_program(const std::vector<std::string>& argv, int stdout_fd) {
  std::vector<std::string> environment;
  for (char** variable = environ; *variable != nullptr; ++variable) environment.emplace_back(*variable);
  launch::ChildSpec spec;
  spec.argv = argv;
  spec.environment = std::move(environment);
  spec.stdout_fd = stdout_fd;
  spec.own_group = false;  // An interrupt from the terminal ends it as well.
  const launch::Child child = launch::start_child(spec);
  int status = 0;
  LS_SYSCALL(::waitpid(child.pid, &status, 0), "waiting for ", argv.front());
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/// The peer's own program, which prints the same rows: PyTorch's DistributedDataParallel on Gloo.
class PyTorch {
 public:
  PyTorch() {
    const Lines ignored;
    // Imported, since one that is there need not load; quietly, since the next one may.
    const std::string probe = "import sys\ntry:\n  import torch\nexcept Exception:\n  sys.exit(1)";
    for (const std::string name : {"python3", "/usr/bin/python3"}) {
      try {
        python_ = launch::find_program(name);
      } catch (const UsageError&) {
        continue;
      }
      if (run_program({python_, "-c", probe}, ignored.fd())) return;
    }
    throw UsageError("no python3 with torch here; install python3-torch or leave out --with-pytorch");
  }

  std::vector<Json> run(const ModelSpec& model, const StepOptions& options,
                        const std::vector<std::string>& more) const {
    const int steps = options.steps > 0 ? options.steps : model.steps;
    std::vector<std::string> argv = {python_,     std::string(LOCKSTEP_BENCH_SOURCE_DIR) + "/peers/torch_ddp_bench.py",
                                     "--model",   std::string(model.name),
                                     "--nproc",   std::to_string(options.nproc),
                                     "--threads", std::to_string(options.threads),
                                     "--blocks",  std::to_string(options.blocks),
                                     "--steps",   std::to_string(steps)};
    argv.insert(argv.end(), more.begin(), more.end());
    const Lines lines;
    if (!run_program(argv, lines.fd())) {
      throw Error(base::cat("PyTorch's ranks failed on ", model.name, "; what they said is above"));
    }
    return lines.read();
  }

 private:
  std::string python_;
};

/// Of rows of one model and round; throws InternalError where the peers' models have not as many parameters.
class Round {
 public:
  explicit Round(std::vector<Json> rows) : rows_(std::move(rows)) {
    for (const Json& row : rows_) {
      LS_CHECK(row["params"] == rows_.front()["params"], "models differ: ", row["peer"], " has ", row["params"],
               " parameters, ", rows_.front()["peer"], " ", rows_.front()["params"]);
    }
  }

  double value(const char* peer, const char* mode, const char* field) const {
    for (const Json& row : rows_) {
      if (row["peer"] == peer && row["mode"] == mode) return row[field].get<double>();
    }
    return std::nan("");
  }
  std::vector<Json>& rows() { return rows_; }

 private:
  std::vector<Json> rows_;
};

void add_shares(Round& round, int number) {
  const auto rounded = [](double value) { return std::round(value * 1e4) / 1e4; };
  for (Json& row : round.rows()) {
    row["round"] = number;
    if (row["mode"] == "nosync") continue;
    const auto peer = row["peer"].get<std::string>();
    const double rate = row["samples_per_s"].get<double>();
    row["share"] = rounded(rate / round.value(peer.c_str(), "nosync", "samples_per_s"));
    const double theirs = round.value("pytorch", "ddp", "samples_per_s");
    if (peer == "lockstep" && row["mode"] == "ddp" && !std::isnan(theirs)) row["vs_pytorch"] = rounded(rate / theirs);
  }
}

void add_extra_memory(Round& round) {
  for (Json& row : round.rows()) {
    const auto peer = row["peer"].get<std::string>();
    if (row["mode"] != "ddp") continue;
    const auto extra = [&](const char* field) {
      return static_cast<std::int64_t>(row[field].get<double>() - round.value(peer.c_str(), "nosync", field));
    };
    row["extra_bytes"] = extra("bytes");
    row["extra_resident_bytes"] = extra("resident_bytes");
  }
}

std::vector<Json> memory_rows(const ModelSpec& model, const StepOptions& options, const PyTorch* pytorch) {
  std::vector<Json> rows;
  for (const bool synchronise : {false, true}) {
    const auto measure = [&] { return std::vector<Json>{measure_memory(model, options, synchronise)}; };
    for (Json& row : run_ranks(options.nproc, measure)) rows.push_back(std::move(row));
    if (pytorch == nullptr) continue;
    for (Json& row : pytorch->run(model, options, {"--memory", synchronise ? "ddp" : "nosync"})) {
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

}  // namespace

void run_job(const StepOptions& options, const std::function<void(const Json&)>& emit) {
  if (options.host_cost) {
    const auto measure = [&] { return std::vector<Json>{measure_host_cost(join(options), options)}; };
    for (const Json& row : run_ranks(1, measure)) emit(row);
    return;
  }
  std::optional<PyTorch> pytorch;
  if (options.with_pytorch) pytorch.emplace();
  const int rounds = options.memory ? 1 : options.rounds;
  for (int number = 1; number <= rounds; ++number) {
    for (const std::string& name : options.models) {
      const ModelSpec& model = find_model(name);
      if (options.memory) {
        Round round(memory_rows(model, options, pytorch ? &*pytorch : nullptr));
        add_extra_memory(round);
        std::ranges::for_each(round.rows(), emit);
        continue;
      }
      std::vector<Json> rows = run_ranks(options.nproc, [&] { return time_steps(join(options), model, options); });
      if (pytorch) {
        for (Json& row : pytorch->run(model, options, {})) rows.push_back(std::move(row));
      }
      Round round(std::move(rows));
      add_shares(round, number);
      std::ranges::for_each(round.rows(), emit);
    }
  }
}

void run_member(const StepOptions& options, const std::function<void(const Json&)>& emit) {
  LS_REQUIRE(!options.with_pytorch && !options.memory && !options.host_cost,
             "this is a rank of a job that a launcher started; --with-pytorch, --memory and --host-cost start ranks of "
             "their own: run step_bench without a launcher");
  const auto world = join(options);
  for (int number = 1; number <= options.rounds; ++number) {
    for (const std::string& name : options.models) {
      Round round(time_steps(world, find_model(name), options));
      add_shares(round, number);
      if (world->rank() == 0) std::ranges::for_each(round.rows(), emit);
    }
  }
  world->barrier();
}

}  // namespace lockstep::bench
