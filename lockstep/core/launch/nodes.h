#pragma once
// How the launchers of a job's hosts agree. Internal: never included from a public header.

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/launch/supervisor.h"
#include "lockstep/core/store/store.h"

namespace lockstep::launch {

/// What one node brings to the job.
struct NodeInfo {
  int nnodes = 1;
  int node_rank = 0;
  int local_world_size = 1;
  int max_restarts = 0;
  std::string role = {};
  Duration silence = std::chrono::seconds(30);  ///< after which node 0 takes a node to be dead
};

/// What the nodes agreed on.
struct JobShape {
  int first_rank = 0;
  int world_size = 1;
  int master_port = 0;
};

/// A failure somewhere in the job; the same on all nodes, because the first one to be published counts. One that is
/// final is added to one that is not.
struct JobFailure {
  int exit_code = 1;
  bool final = false;  ///< no restart can help: Ctrl-C, or a node is gone
  std::string text;
};

/// The meeting of the launchers, one per node, in the store that node 0 serves. Membership is fixed at the start.
///
/// Each attempt ends for all nodes together: when every node's workers have ended, either way, or at a failure that is
/// final. Every node counts up a number of its own; node 0 takes one that stands still to be dead.
/// Thread safety: one thread. All functions but leave() may throw what the store throws.
class NodeGroup {
 public:
  NodeGroup(std::shared_ptr<Store> store, NodeInfo info);

  /// Waits for all nodes; `master_port` counts on node 0. Nothing where a signal came first (it stays pending), and
  /// then, as at the deadline, another launcher may take this node's place.
  /// Throws UsageError (a node rank taken twice), MismatchError (nodes with different flags: on each of them, and then
  /// each has left) and TimeoutError (names the nodes that are missing).
  std::optional<JobShape> join(int master_port, JobSignals& signals, Deadline deadline);

  /// What the other nodes say; publishes what happened here. For SupervisorOptions::elsewhere.
  Elsewhere ask(int attempt, const RunEnd& so_far, bool all_ended);

  /// The failure that ended this attempt, if any; valid after ask() said kFinished, or the run was interrupted.
  const std::optional<JobFailure>& failure() const noexcept { return failure_; }

  /// At the end: node 0 stays until the others have read how the job ended, for ten seconds at most.
  void leave() noexcept;

 private:
  /// Both sides of flags that must agree and don't; empty where all do.
  std::string disagreement(const std::vector<std::string>& nodes) const;
  JobShape add_up(const std::vector<std::string>& nodes) const;
  bool is_final() const noexcept { return failure_ && failure_->final; }
  void publish(int attempt, const JobFailure& failure);
  void beat();
  void listen_for_silence(int attempt);

  std::shared_ptr<Store> store_;
  NodeInfo info_;
  int attempt_ = -1;
  bool published_ = false;
  bool announced_end_ = false;
  std::optional<JobFailure> failure_;
  Deadline next_beat_ = Deadline::after(Duration::zero());
  std::vector<std::string> last_beats_;
  std::vector<Clock::time_point> heard_;
};

}  // namespace lockstep::launch
