#pragma once
// `lockstep run`: one host's part of a job, from its options to its exit code. Internal: never included from a public
// header.

#include <string>
#include <vector>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/launch/redirects.h"

namespace lockstep::launch {

struct JobOptions {
  int nnodes = 1;
  int node_rank = 0;
  int nproc_per_node = 1;
  std::string endpoint_host;   ///< where the store of node 0 listens; empty: master_address, or loopback on one node
  int endpoint_port = 0;       ///< 0: a free one; must be known where nnodes > 1
  std::string master_address;  ///< MASTER_ADDR of the workers; empty: the endpoint's host
  int master_port = 0;         ///< MASTER_PORT of the workers; 0: a free one
  std::string token_file;      ///< holds the job's secret; empty: see choose_token()
  std::string run_id;          ///< names the job and its log directory; empty: random, or "none" where nnodes > 1
  std::string role = "default";
  int max_restarts = 0;
  std::string log_dir;
  StreamChoice redirects;  ///< to files only
  StreamChoice tee;        ///< to files and to our own streams
  std::vector<int> shown;  ///< local ranks whose output reaches our own streams; empty: all
  bool prefix = true;      ///< "[rank] " before each line where several workers print
  Duration grace = std::chrono::seconds(30);
  Duration join_timeout = std::chrono::seconds(300);  ///< for all nodes to arrive
  bool pin = true;
  bool quiet = false;  ///< no line at the start
  std::vector<std::string> command;
};

/// What is wrong with the options as a whole, as a UsageError that names the flag.
void validate(const JobOptions& options);
/// The same, but for the program, which it leaves unseen.
void validate_flags(const JobOptions& options);

/// Runs the workers of this node until the job has ended on all nodes; restarts them all after a failure, max_restarts
/// times. Returns the exit code: 0, or that of the first worker that failed (128 + signal), or 130 after Ctrl-C.
///
/// Takes over SIGINT, SIGTERM, SIGHUP and SIGQUIT while it runs; no other thread may be alive. Throws UsageError
/// (before anything is started), SystemError (a port in use ...), TimeoutError (names a node that never arrived).
int run_job(const JobOptions& options);

}  // namespace lockstep::launch
