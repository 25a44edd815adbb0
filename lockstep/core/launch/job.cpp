#include "lockstep/core/launch/job.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "lockstep/core/base/check.h"
#include "lockstep/core/io/socket.h"
#include "lockstep/core/launch/nodes.h"
#include "lockstep/core/launch/preview.h"
#include "lockstep/core/launch/random_id.h"
#include "lockstep/core/launch/signals.h"
#include "lockstep/core/launch/supervisor.h"
#include "lockstep/core/launch/worker_plan.h"
#include "lockstep/core/store/tcp_store.h"

namespace lockstep::launch {
namespace {

constexpr const char* kNarrator = "lockstep run";
constexpr int kConnectionsOfARank = 8;  ///< to the store; a client keeps four

void say(const std::string& text) { std::fprintf(stderr, "%s: %s\n", kNarrator, text.c_str()); }

class Job {
 public:
  explicit Job(const JobOptions& options) : options_(options), program_(find_program(options.command.at(0))) {}

  int run() {
    budget_ = base::read_cpu_budget();
    name_job();
    if (!open_store() || !settle_shape()) return 128 + signals_.next();
    for (int attempt = 0;; ++attempt) {
      const RunEnd end = run_attempt(attempt);
      const std::optional<JobFailure> failure = failure_of(end);
      if (!failure) return leave(0);
      const bool is_said = end.first_failure || end.stopped || end.interrupted_by != 0;
      if (!is_said) say(failure->text);
      if (failure->final || attempt == options_.max_restarts) return leave(failure->exit_code);
      say(base::cat("restarting all workers (restart ", attempt + 1, " of ", options_.max_restarts, ")"));
    }
  }

 private:
  bool spans_nodes() const { return options_.nnodes > 1; }

  void name_job() {
    plan_ = plan_of(options_);
    if (plan_.run_id.empty()) plan_.run_id = random_hex(4);
    const JobToken token = choose_token(options_, plan_.run_id);
    plan_.job_token = token.value;
    if (token.is_weak) {
      say("LOCKSTEP_JOB_TOKEN is not set: whoever knows the run id '" + plan_.run_id +
          "' can join this job; set it to a secret on all nodes, or give a --token-file");
    }
  }

  /// Node 0 serves, the others connect. False where a signal came first.
  bool open_store() {
    const std::string host = endpoint_host(options_);
    if (options_.node_rank == 0) {
      TcpStoreServerOptions server;
      server.address = host;
      server.port = options_.endpoint_port;
      server.token = plan_.job_token;
      server.max_clients =
          std::max(server.max_clients, kConnectionsOfARank * options_.nnodes * options_.nproc_per_node);
      server_.emplace(server);
      store_ = server_->local();
      plan_.store = io::host_and_port(reachable(host), server_->port());
      const std::string problem = spans_nodes() ? loopback_problem(host, io::Listener(host, 0).address()) : "";
      if (!problem.empty()) say(problem);
      return true;
    }
    plan_.store = io::host_and_port(host, options_.endpoint_port);
    const Deadline deadline = Deadline::after(options_.join_timeout);
    for (;;) {  // in slices, to notice signals
      try {
        store_ =
            connect_tcp_store(host, options_.endpoint_port, plan_.job_token,
                              Deadline::after(std::min<Duration>(deadline.left(), std::chrono::milliseconds(500))));
        return true;
      } catch (const TimeoutError&) {
        if (deadline.passed()) {
          throw TimeoutError(base::cat(
              "node ", options_.node_rank, " of ", options_.nnodes, ": no answer from node 0 at ", plan_.store,
              " after ", seconds(options_.join_timeout), " s; is `lockstep run --node-rank 0` running there?"));
        }
        if (signals_.end_asked(0)) return false;
      }
    }
  }

  /// A port on which rank 0 may listen: the one asked for, or a free one.
  int choose_master_port() const {
    const int asked = server_->port() == options_.master_port ? 0 : options_.master_port;
    return io::Listener(plan_.master_address, asked).port();
  }

  /// Ranks and ports. False where a signal came first.
  bool settle_shape() {
    const int master_port = options_.node_rank == 0 ? choose_master_port() : 0;
    JobShape shape{0, options_.nproc_per_node, master_port};
    if (spans_nodes()) {
      NodeInfo info{options_.nnodes, options_.node_rank, options_.nproc_per_node, options_.max_restarts, options_.role};
      nodes_.emplace(store_, std::move(info));
      const auto agreed = nodes_->join(master_port, signals_, Deadline::after(options_.join_timeout));
      if (!agreed) return false;
      shape = *agreed;
    }
    plan_.first_rank = shape.first_rank;
    plan_.world_size = shape.world_size;
    plan_.master_port = shape.master_port;
    return true;
  }

  void announce(const std::vector<WorkerPlan>& plans) const {
    std::string text = describe(plans, budget_, plan_.set_threads);
    if (spans_nodes()) {
      text += base::cat(", node ", plan_.node_rank, " of ", plan_.nnodes, " (ranks ", plans.front().rank, "-",
                        plans.back().rank, " of ", plan_.world_size, ")");
    }
    text += base::cat(", store ", plan_.store, ", job ", plan_.run_id);
    if (!options_.log_dir.empty()) text += ", logs in " + log_directory();
    say(text);
  }

  std::string log_directory() const {
    const std::string node = spans_nodes() ? base::cat("/node_", plan_.node_rank) : "";
    return options_.log_dir + "/" + plan_.run_id + node;
  }

  bool is_shown(int local_rank) const {
    return options_.shown.empty() || std::ranges::find(options_.shown, local_rank) != options_.shown.end();
  }

  bool several_print() const {
    return spans_nodes() ||
           (options_.shown.empty() ? plan_.local_world_size : static_cast<int>(options_.shown.size())) > 1;
  }

  StreamSpec stream_spec(int local_rank, Streams stream) const {
    const bool redirected = has(options_.redirects.of(local_rank), stream);
    const bool teed = has(options_.tee.of(local_rank), stream);
    const bool all_logged = options_.redirects.none() && options_.tee.none();
    StreamSpec spec;
    spec.show = is_shown(local_rank) && (teed || !redirected);
    if (!options_.log_dir.empty() && (redirected || teed || all_logged)) {
      spec.log_file = base::cat(log_directory(), "/attempt_", plan_.restart_count, "/", local_rank,
                                stream == Streams::kOut ? "/stdout.log" : "/stderr.log");
    }
    // Who prints alone, or asks for no prefixes, gets the terminal itself: progress bars and colours work.
    const bool alone = !options_.prefix || !several_print();
    const bool terminal = ::isatty(stream == Streams::kOut ? STDOUT_FILENO : STDERR_FILENO) != 0;
    spec.capture = !(alone && terminal && spec.show && spec.log_file.empty());
    return spec;
  }

  WorkerSpec worker_spec(const WorkerPlan& plan, int no_input) const {
    WorkerSpec spec;
    spec.rank = plan.rank;
    spec.local_rank = plan.local_rank;
    spec.child.argv = options_.command;
    spec.child.argv[0] = program_;
    spec.child.environment = merge_environment(own_environment(), plan.environment);
    spec.child.cpus = plan.cpus;
    spec.child.open_files = open_files_.before();
    // Input goes to local rank 0, as with MPI. Not from a terminal: only its foreground process group may read there.
    const bool reads = plan.local_rank == 0 && ::isatty(STDIN_FILENO) == 0;
    if (!reads) spec.child.stdin_fd = no_input;
    spec.out = stream_spec(plan.local_rank, Streams::kOut);
    spec.err = stream_spec(plan.local_rank, Streams::kErr);
    if (several_print()) spec.prefix = options_.prefix ? base::cat("[", plan.rank, "] ") : "";
    return spec;
  }

  RunEnd run_attempt(int attempt) {
    plan_.restart_count = attempt;
    const auto plans = plan_workers(plan_, budget_);
    if (attempt == 0 && !options_.quiet) announce(plans);
    SupervisorOptions supervision;
    supervision.grace = options_.grace;
    supervision.signals = &signals_;
    supervision.narrator = kNarrator;
    if (nodes_) {
      supervision.elsewhere = [this, attempt](const RunEnd& so_far, bool all_ended) {
        return nodes_->ask(attempt, so_far, all_ended);
      };
    }
    Supervisor supervisor(std::move(supervision));
    const io::UniqueFd no_input(LS_SYSCALL(::open("/dev/null", O_RDONLY | O_CLOEXEC), "can't open /dev/null"));
    for (const WorkerPlan& plan : plans) supervisor.start(worker_spec(plan, no_input.get()));
    return supervisor.run();
  }

  std::optional<JobFailure> failure_of(const RunEnd& end) const {
    if (end.interrupted_by != 0) return JobFailure{128 + end.interrupted_by, true, "interrupted"};
    // A restart needs the store.
    if (nodes_ && nodes_->failure()) {
      JobFailure failure = *nodes_->failure();
      failure.final |= end.elsewhere_gone;
      return failure;
    }
    if (end.first_failure) {
      return JobFailure{end.workers[*end.first_failure].shell_code(), end.elsewhere_gone, ""};
    }
    if (end.stopped) return JobFailure{1, true, *end.stopped};
    return std::nullopt;
  }

  int leave(int exit_code) {
    if (nodes_) nodes_->leave();
    return exit_code;
  }

  const JobOptions& options_;
  std::string program_;
  ManyOpenFiles open_files_;
  JobSignals signals_;  // before the store's thread
  base::CpuBudget budget_;
  PlanOptions plan_;
  std::optional<TcpStoreServer> server_;
  std::shared_ptr<Store> store_;
  std::optional<NodeGroup> nodes_;
};

void require_local_rank(const char* flag, int local_rank, const JobOptions& options) {
  LS_REQUIRE(local_rank >= 0 && local_rank < options.nproc_per_node, flag, ": local rank ", local_rank,
             " is not one of 0 to ", options.nproc_per_node - 1, " (--nproc-per-node ", options.nproc_per_node, ")");
}

}  // namespace

void validate_flags(const JobOptions& options) {
  LS_REQUIRE(!options.command.empty(), "no program was given; lockstep run [flags] -- PROGRAM [arguments]");
  LS_REQUIRE(options.nproc_per_node > 0, "--nproc-per-node ", options.nproc_per_node, ": expected 1 or more");
  LS_REQUIRE(options.nnodes > 0, "--nnodes ", options.nnodes, ": expected 1 or more");
  LS_REQUIRE(options.node_rank >= 0 && options.node_rank < options.nnodes, "--node-rank ", options.node_rank,
             ": expected 0 to ", options.nnodes - 1, " (--nnodes ", options.nnodes, ")");
  LS_REQUIRE(options.nnodes == 1 || !options.endpoint_host.empty() || !options.master_address.empty(), "--nnodes ",
             options.nnodes, " needs --master-addr (and --master-port) or --rdzv-endpoint: the host of node 0");
  LS_REQUIRE(options.nnodes == 1 || options.endpoint_port > 0, "--nnodes ", options.nnodes,
             " needs a port that all nodes know; port 0 is for one node");
  LS_REQUIRE(options.max_restarts >= 0, "--max-restarts ", options.max_restarts, ": expected 0 or more");
  LS_REQUIRE(options.run_id.find('/') == std::string::npos && options.run_id != "." && options.run_id != "..",
             "--rdzv-id '", options.run_id, "': it names a directory of logs, so no '/'");
  LS_REQUIRE(!options.log_dir.empty() || options.redirects.none(), "--redirects needs --log-dir, where the files go");
  LS_REQUIRE(!options.log_dir.empty() || options.tee.none(), "--tee needs --log-dir, where the files go");
  if (options.redirects.highest_rank() >= 0)
    require_local_rank("--redirects", options.redirects.highest_rank(), options);
  if (options.tee.highest_rank() >= 0) require_local_rank("--tee", options.tee.highest_rank(), options);
  for (const int local_rank : options.shown) require_local_rank("--local-ranks-filter", local_rank, options);
}

void validate(const JobOptions& options) {
  validate_flags(options);
  find_program(options.command[0]);
}

int run_job(const JobOptions& options) {
  validate(options);
  return Job(options).run();
}

}  // namespace lockstep::launch
