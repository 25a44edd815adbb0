#include "lockstep/core/launch/preview.h"

#include <netdb.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/token_file.h"
#include "lockstep/core/io/socket.h"
#include "lockstep/core/launch/process.h"
#include "lockstep/core/launch/random_id.h"

namespace lockstep::launch {
namespace {

constexpr const char* kLoopback = "127.0.0.1";
constexpr const char* kLater = "(chosen at the start)";
constexpr const char* kHidden = "(hidden)";

/// The directory itself may come later; what it will be made in is there now.
void require_log_directory(const std::string& directory) {
  std::error_code error;
  std::filesystem::path nearest = std::filesystem::absolute(directory, error);
  while (!nearest.empty() && nearest != nearest.root_path() && !std::filesystem::exists(nearest, error)) {
    nearest = nearest.parent_path();
  }
  LS_REQUIRE(std::filesystem::is_directory(nearest, error), "--log-dir ", directory, ": ", nearest.string(),
             " is no directory");
  LS_REQUIRE(::access(nearest.c_str(), W_OK | X_OK) == 0, "--log-dir ", directory, ": can't write to ",
             nearest.string(), ": ", std::strerror(errno));
}

void require_resolvable(const std::string& host) {
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(host.c_str(), nullptr, nullptr, &found);
  if (found != nullptr) ::freeaddrinfo(found);
  LS_REQUIRE(error == 0, "node 0's host '", host, "' has no address: ", ::gai_strerror(error),
             "; check --master-addr or --rdzv-endpoint");
}

}  // namespace

std::string endpoint_host(const JobOptions& options) {
  if (!options.endpoint_host.empty()) return options.endpoint_host;
  return options.nnodes > 1 ? options.master_address : kLoopback;
}

std::string reachable(const std::string& host) {
  if (host == "::") return "::1";
  return host == "0.0.0.0" ? kLoopback : host;
}

std::string loopback_problem(const std::string& host, const std::string& address) {
  const bool is_loopback = address.starts_with("127.") || address == "::1";
  const bool is_meant = host.starts_with("127.") || host == "::1" || host == "localhost";
  if (!is_loopback || is_meant) return {};
  return base::cat("the name ", host, " stands for ", address,
                   " on this host (see /etc/hosts), where no other host can ",
                   "reach it; give --master-addr the address that the others see");
}

PlanOptions plan_of(const JobOptions& options) {
  PlanOptions plan;
  plan.nnodes = options.nnodes;
  plan.node_rank = options.node_rank;
  plan.local_world_size = options.nproc_per_node;
  plan.max_restarts = options.max_restarts;
  plan.run_id = options.run_id;
  if (plan.run_id.empty() && options.nnodes > 1) plan.run_id = "none";
  plan.role = options.role;
  plan.pin = options.pin;
  plan.set_threads = !environment_string("OMP_NUM_THREADS");
  plan.master_address = reachable(options.master_address.empty() ? endpoint_host(options) : options.master_address);
  return plan;
}

JobToken choose_token(const JobOptions& options, const std::string& run_id) {
  if (!options.token_file.empty()) return {base::read_token_file(options.token_file), "from " + options.token_file};
  if (const auto token = read_job_token()) {
    const auto named = environment_string("LOCKSTEP_JOB_TOKEN") ? "LOCKSTEP_JOB_TOKEN" : "LOCKSTEP_JOB_TOKEN_FILE";
    return {*token, std::string("from ") + named};
  }
  if (options.nnodes == 1) return {random_hex(16), "random"};
  return {"run-id:" + run_id, "the run id, which is no secret", true};
}

std::vector<std::string> find_problems(const JobOptions& options) {
  std::vector<std::string> problems;
  const auto check = [&](const std::function<void()>& fn) {
    try {
      fn();
    } catch (const Error& error) {
      problems.emplace_back(error.what());
    }
  };
  check([&] { find_program(options.command.at(0)); });
  check([&] { choose_token(options, ""); });
  const std::string host = endpoint_host(options);
  if (options.node_rank == 0) {
    check([&] {
      const io::Listener listener(host, options.endpoint_port);
      const std::string problem = options.nnodes > 1 ? loopback_problem(host, listener.address()) : "";
      if (!problem.empty()) problems.push_back(problem);
    });
    const std::string master = plan_of(options).master_address;
    const bool same_port = options.master_port == options.endpoint_port;
    if (master != reachable(host) || (options.master_port != 0 && !same_port)) {
      check([&] { io::Listener(master, same_port ? 0 : options.master_port); });
    }
  } else {
    check([&] { require_resolvable(host); });
  }
  if (!options.log_dir.empty()) check([&] { require_log_directory(options.log_dir); });
  return problems;
}

JobPreview preview_job(const JobOptions& options) {
  PlanOptions plan = plan_of(options);
  if (plan.run_id.empty()) plan.run_id = kLater;
  plan.world_size = options.nnodes * options.nproc_per_node;
  plan.first_rank = options.node_rank * options.nproc_per_node;
  const std::string port = options.endpoint_port != 0 ? std::to_string(options.endpoint_port) : kLater;
  plan.store = io::host_and_port(reachable(endpoint_host(options)), port);
  plan.job_token = kHidden;
  plan.master_port = options.master_port == options.endpoint_port ? 0 : options.master_port;
  JobPreview preview;
  preview.store = plan.store;
  preview.run_id = plan.run_id;
  preview.world_size = plan.world_size;
  preview.budget = base::read_cpu_budget();
  preview.sets_threads = plan.set_threads;
  preview.workers = plan_workers(plan, preview.budget);
  for (WorkerPlan& worker : preview.workers) {
    for (auto& [name, value] : worker.environment) {
      if (name == "MASTER_PORT" && value == "0") value = kLater;
    }
  }
  try {
    preview.token_source = choose_token(options, plan.run_id).source;
  } catch (const Error&) {
    // find_problems() tells.
  }
  return preview;
}

}  // namespace lockstep::launch
