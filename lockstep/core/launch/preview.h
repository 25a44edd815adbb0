#pragma once
// What `lockstep run` is going to do, without doing it. Internal: never included from a public header.

#include <string>
#include <vector>

#include "lockstep/core/base/cpus.h"
#include "lockstep/core/launch/job.h"
#include "lockstep/core/launch/worker_plan.h"

namespace lockstep::launch {

/// Where the store of node 0 listens.
std::string endpoint_host(const JobOptions& options);
/// All interfaces are an address to listen on, not one to connect to.
std::string reachable(const std::string& host);
/// One line where node 0's name stands for a loopback `address` that was not asked for, else empty: Debian's /etc/hosts
/// gives a host's own name 127.0.1.1. Pure.
std::string loopback_problem(const std::string& host, const std::string& address);
/// What the options alone say of a plan: no ranks, ports, store or secret yet.
PlanOptions plan_of(const JobOptions& options);

/// The job's secret and where it comes from.
struct JobToken {
  std::string value;
  std::string source;    ///< for people; never the value
  bool is_weak = false;  ///< nothing but the run id, which is no secret
};
/// --token-file, LOCKSTEP_JOB_TOKEN, LOCKSTEP_JOB_TOKEN_FILE, or random where the job has one node. Throws what
/// read_token_file() throws.
JobToken choose_token(const JobOptions& options, const std::string& run_id);

/// One line for each thing that would keep this node from starting and that shows without asking another node: the
/// program, the secret's file, node 0's address and ports, the master's name, the directory for logs. Listens on the
/// ports for a moment; writes nothing.
std::vector<std::string> find_problems(const JobOptions& options);

struct JobPreview {
  std::string store;  ///< host:port
  std::string run_id;
  std::string token_source;  ///< empty where find_problems() says why there is none
  int world_size = 1;
  base::CpuBudget budget;
  bool sets_threads = false;  ///< OMP_NUM_THREADS is unset, so workers are told their share
  std::vector<WorkerPlan> workers;
};

/// The workers of this node as run_job() would start them, if every node starts as many. What is chosen at the start
/// (free ports, a random name) reads "(chosen at the start)", and the secret's value "(hidden)".
JobPreview preview_job(const JobOptions& options);

}  // namespace lockstep::launch
