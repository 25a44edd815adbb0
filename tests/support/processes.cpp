#include "tests/support/processes.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>
#include <optional>
#include <sstream>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/io/file.h"
#include "lockstep/core/launch/output.h"
#include "lockstep/core/store/tcp_store.h"

namespace lockstep::support {
namespace {

constexpr std::string_view kWorkerFlag = "--worker";

std::map<std::string, WorkerFunction, std::less<>>& workers() {
  static std::map<std::string, WorkerFunction, std::less<>> table;
  return table;
}

std::string own_program() {
  std::string path(4096, '\0');
  const ssize_t n = LS_SYSCALL(::readlink("/proc/self/exe", path.data(), path.size()), "can't find this program");
  path.resize(static_cast<std::size_t>(n));
  return path;
}

const char* type_name(const std::exception& error) {
  if (dynamic_cast<const UsageError*>(&error) != nullptr) return "UsageError";
  if (dynamic_cast<const MismatchError*>(&error) != nullptr) return "MismatchError";
  if (dynamic_cast<const PeerError*>(&error) != nullptr) return "PeerError";
  if (dynamic_cast<const TimeoutError*>(&error) != nullptr) return "TimeoutError";
  if (dynamic_cast<const AbortedError*>(&error) != nullptr) return "AbortedError";
  if (dynamic_cast<const SystemError*>(&error) != nullptr) return "SystemError";
  if (dynamic_cast<const CorruptionError*>(&error) != nullptr) return "CorruptionError";
  if (dynamic_cast<const InternalError*>(&error) != nullptr) return "InternalError";
  return "exception";
}

/// This process's environment without what some launcher around the tests says.
std::vector<std::string> neutral_environment() {
  std::vector<std::string> out;
  for (const std::string& entry : launch::own_environment()) {
    const std::string_view name = std::string_view(entry).substr(0, entry.find('='));
    const auto table = environment_table();
    const bool known = std::ranges::any_of(table, [&](const EnvironmentVariable& row) { return row.name == name; });
    if (!known && !name.starts_with("PET_")) out.push_back(entry);
  }
  return out;
}

void print_tail(std::ostream& out, const char* name, const std::string& text) {
  launch::Tail tail;
  launch::LineSplitter().feed(text, [&](std::string_view line, char terminator) { tail.add(line, terminator); });
  for (const std::string& line : tail.lines()) out << "    " << name << ": " << line << '\n';
}

}  // namespace

WorkerRegistration::WorkerRegistration(std::string_view name, WorkerFunction function) {
  const bool fresh = workers().emplace(name, function).second;
  if (!fresh) {
    std::fprintf(stderr, "two workers are called %s\n", std::string(name).c_str());
    std::abort();
  }
}

void say_ready(std::string_view what) {
  std::cout << "READY " << what << std::endl;  // flushed: the parent waits for it
}

bool ProcessResult::ok() const {
  return !deadline_passed && std::ranges::all_of(ranks, [](const ProcessEnd& end) { return end.ok(); });
}

std::ostream& operator<<(std::ostream& out, const ProcessResult& result) {
  out << (result.deadline_passed ? "the deadline passed: processes were killed\n" : "");
  for (const ProcessEnd& end : result.ranks) {
    out << "  rank " << end.rank << " (pid " << end.pid << ") ";
    if (end.signal != 0) {
      out << "died of " << launch::signal_name(end.signal);
    } else {
      out << "exited with code " << end.exit_code;
    }
    out << " after " << seconds(end.after) << " s\n";
    print_tail(out, "stdout", end.out);
    print_tail(out, "stderr", end.err);
  }
  return out;
}

Arguments worker_command(const std::string& worker, const Arguments& arguments) {
  LS_CHECK(workers().contains(worker), "no worker is called ", worker);
  Arguments argv = {own_program(), std::string(kWorkerFlag), worker};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return argv;
}

ProcessResult run_processes(int n, const std::string& worker, const Arguments& arguments,
                            const ProcessOptions& options) {
  std::optional<TcpStoreServer> server;
  std::vector<launch::Variables> variables(static_cast<std::size_t>(n));
  if (options.tell_ranks) {
    launch::PlanOptions plan;
    plan.job_token = base::cat("test-", ::getpid());
    TcpStoreServerOptions server_options;
    server_options.token = plan.job_token;
    server.emplace(server_options);
    plan.local_world_size = plan.world_size = n;
    plan.store = base::cat("127.0.0.1:", server->port());
    plan.master_port = server->port();
    plan.run_id = "test";
    for (const auto& one : launch::plan_workers(plan, base::read_cpu_budget())) {
      variables[static_cast<std::size_t>(one.rank)] = one.environment;
    }
  }
  const std::vector<Arguments> commands(static_cast<std::size_t>(n), worker_command(worker, arguments));
  return run_programs(commands, variables, options);
}

ProcessResult run_programs(const std::vector<Arguments>& commands, const ProcessOptions& options) {
  return run_programs(commands, std::vector<launch::Variables>(commands.size()), options);
}

ProcessResult run_programs(const std::vector<Arguments>& commands, const std::vector<launch::Variables>& variables,
                           const ProcessOptions& options) {
  const io::TempDirectory directory("lockstep-test");
  ProcessResult result;
  result.ranks.resize(commands.size());
  launch::SupervisorOptions supervision;
  supervision.end_on_failure = false;
  supervision.deadline = Deadline::after(options.deadline);
  supervision.on_line = [&](launch::Supervisor& supervisor, const launch::OutputLine& line) {
    ProcessEnd& end = result.ranks[static_cast<std::size_t>(line.rank)];
    (line.error ? end.err : end.out).append(line.text).append("\n");
    if (options.on_line) options.on_line(supervisor, line);
  };
  launch::Supervisor supervisor(std::move(supervision));
  for (std::size_t rank = 0; rank < commands.size(); ++rank) {
    launch::WorkerSpec spec;
    spec.rank = spec.local_rank = static_cast<int>(rank);
    spec.child.argv = commands[rank];
    launch::Variables added = variables[rank];
    added.emplace_back("TMPDIR", directory.path());
    added.insert(added.end(), options.environment.begin(), options.environment.end());
    spec.child.environment = launch::merge_environment(neutral_environment(), added);
    spec.out.show = spec.err.show = false;
    supervisor.start(std::move(spec));
  }
  const launch::RunEnd run = supervisor.run();
  result.deadline_passed = run.deadline_passed;
  for (std::size_t rank = 0; rank < commands.size(); ++rank) {
    ProcessEnd& end = result.ranks[rank];
    end.rank = static_cast<int>(rank);
    end.pid = run.workers[rank].pid;
    end.exit_code = run.workers[rank].exit_code;
    end.signal = run.workers[rank].signal;
    end.after = run.workers[rank].after;
  }
  return result;
}

ProcessEnd run_program(const Arguments& argv, const ProcessOptions& options) {
  ProcessResult result = run_programs({argv}, options);
  ProcessEnd end = std::move(result.ranks[0]);
  if (result.deadline_passed) end.err += base::cat("(killed: still running after ", seconds(options.deadline), " s)\n");
  return end;
}

bool run_as_worker(int argc, char** argv, int& exit_code) {
  if (argc < 3 || argv[1] != kWorkerFlag) return false;
  const auto found = workers().find(std::string_view(argv[2]));
  if (found == workers().end()) {
    std::cerr << "no worker is called " << argv[2] << std::endl;
    exit_code = kThrew;
    return true;
  }
  try {
    exit_code = found->second(Arguments(argv + 3, argv + argc));
  } catch (const std::exception& error) {
    std::cerr << type_name(error) << ": " << error.what() << std::endl;
    exit_code = kThrew;
  }
  return true;
}

}  // namespace lockstep::support
