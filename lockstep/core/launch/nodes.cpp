#include "lockstep/core/launch/nodes.h"

#include <chrono>
#include <sstream>
#include <thread>

#include "lockstep/core/base/check.h"
#include "lockstep/core/launch/random_id.h"

namespace lockstep::launch {
namespace {

constexpr Duration kBeat = std::chrono::seconds(1);
constexpr Duration kFarewell = std::chrono::seconds(10);
constexpr int kPollMilliseconds = 50;

std::string node_key(int node) { return base::cat("node", node); }
std::string beat_key(int node) { return base::cat("beat", node); }
std::string failure_key(int attempt) { return base::cat("attempt", attempt, "/failure"); }
std::string ended_key(int attempt) { return base::cat("attempt", attempt, "/ended"); }

std::string encode(const JobFailure& failure) {
  return base::cat(failure.exit_code, " ", failure.final ? 1 : 0, " ", failure.text);
}

JobFailure decode(const std::string& text) {
  std::istringstream in(text);
  JobFailure failure;
  int final = 1;
  in >> failure.exit_code >> final;
  in.ignore(1);
  std::getline(in, failure.text, '\0');
  failure.final = final != 0;
  return failure;
}

std::int64_t to_number(const std::optional<std::string>& text) { return text ? std::stoll(*text) : 0; }

}  // namespace

NodeGroup::NodeGroup(std::shared_ptr<Store> store, NodeInfo info)
    : store_(make_prefix_store(std::move(store), "launch")), info_(std::move(info)) {
  last_beats_.resize(static_cast<std::size_t>(info_.nnodes));
}

std::optional<JobShape> NodeGroup::join(int master_port, JobSignals& signals, Deadline deadline) {
  // The flags that must agree, in words, then what is this node's own.
  const std::string mine = base::cat("--nnodes ", info_.nnodes, " --max-restarts ", info_.max_restarts, " --role ",
                                     info_.role, "\n", info_.local_world_size, " ", random_hex(8));
  LS_REQUIRE(store_->compare_and_set(node_key(info_.node_rank), std::nullopt, mine) == mine, "--node-rank ",
             info_.node_rank, ": another launcher of this job has it; give each node its own, from 0 to ",
             info_.nnodes - 1);
  if (info_.node_rank == 0) store_->set("master_port", std::to_string(master_port));
  std::vector<std::string> nodes(static_cast<std::size_t>(info_.nnodes));
  for (;;) {
    std::string missing;
    for (int node = 0; node < info_.nnodes; ++node) {
      std::string& info = nodes[static_cast<std::size_t>(node)];
      info = store_->try_get(node_key(node)).value_or("");  // anew: one may have left, and another have come
      if (info.empty()) missing += base::cat(missing.empty() ? "" : ", ", node);
    }
    if (missing.empty()) break;
    if (deadline.passed()) {
      store_->erase(node_key(info_.node_rank));
      throw TimeoutError(base::cat("node ", info_.node_rank, " of ", info_.nnodes, ": waited ",
                                   seconds(deadline.timeout()), " s for node ", missing,
                                   "; start `lockstep run` there with --node-rank, or raise LOCKSTEP_INIT_TIMEOUT"));
    }
    if (signals.end_asked(kPollMilliseconds)) {
      store_->erase(node_key(info_.node_rank));
      return std::nullopt;
    }
  }
  heard_.assign(nodes.size(), Clock::now());
  if (const std::string both = disagreement(nodes); !both.empty()) {
    leave();  // Others may not have read all of it from the store that ends with node 0.
    throw MismatchError(both);
  }
  JobShape shape = add_up(nodes);
  shape.master_port = std::stoi(store_->get("master_port", deadline));
  return shape;
}

std::string NodeGroup::disagreement(const std::vector<std::string>& nodes) const {
  const auto flags_of = [&](int node) {
    const std::string& info = nodes[static_cast<std::size_t>(node)];
    return info.substr(0, info.find('\n'));
  };
  const std::string flags = flags_of(info_.node_rank);
  for (int node = 0; node < info_.nnodes; ++node) {
    if (flags_of(node) == flags) continue;
    return base::cat("node ", info_.node_rank, " was started with ", flags, ", node ", node, " with ", flags_of(node),
                     "; start all nodes with the same flags");
  }
  return {};
}

JobShape NodeGroup::add_up(const std::vector<std::string>& nodes) const {
  JobShape shape;
  shape.world_size = 0;
  for (int node = 0; node < info_.nnodes; ++node) {
    const std::string& info = nodes[static_cast<std::size_t>(node)];
    if (node == info_.node_rank) shape.first_rank = shape.world_size;
    shape.world_size += std::stoi(info.substr(info.find('\n') + 1));
  }
  return shape;
}

void NodeGroup::publish(int attempt, const JobFailure& failure) {
  published_ = true;
  std::string there = store_->compare_and_set(failure_key(attempt), std::nullopt, encode(failure));
  // All wait for all after a failure that a restart may mend; now somebody will not come.
  while (failure.final && !decode(there).final) {
    const JobFailure first = decode(there);
    const JobFailure both{first.exit_code, true, first.text + "; then " + failure.text};
    there = store_->compare_and_set(failure_key(attempt), there, encode(both));
  }
  failure_ = decode(there);
}

void NodeGroup::beat() {
  if (!next_beat_.passed()) return;
  next_beat_ = Deadline::after(kBeat);
  store_->add(beat_key(info_.node_rank), 1);
}

void NodeGroup::listen_for_silence(int attempt) {
  const auto now = Clock::now();
  for (int node = 1; node < info_.nnodes; ++node) {
    const auto i = static_cast<std::size_t>(node);
    const std::string beat = store_->try_get(beat_key(node)).value_or("");
    if (beat != last_beats_[i]) {
      last_beats_[i] = beat;
      heard_[i] = now;
    } else if (now - heard_[i] > info_.silence && !is_final()) {
      publish(attempt,
              {1, true, base::cat("node ", node, " has not been heard of for ", seconds(info_.silence), " s")});
    }
  }
}

Elsewhere NodeGroup::ask(int attempt, const RunEnd& so_far, bool all_ended) {
  if (attempt != attempt_) {
    attempt_ = attempt;
    published_ = announced_end_ = false;
    failure_.reset();
  }
  beat();
  if (so_far.interrupted_by != 0 && !is_final()) {
    const std::string who = base::cat("node ", info_.node_rank, " got ", signal_name(so_far.interrupted_by));
    publish(attempt, {128 + so_far.interrupted_by, true, who});
  } else if (!published_ && so_far.first_failure) {
    const WorkerEnd& end = so_far.workers[*so_far.first_failure];
    publish(attempt, {end.shell_code(), false, base::cat("on node ", info_.node_rank, " ", describe(end))});
  }
  if (info_.node_rank == 0) listen_for_silence(attempt);
  if (!is_final()) {
    if (const auto text = store_->try_get(failure_key(attempt))) failure_ = decode(*text);
  }
  if (!all_ended) {
    if (!failure_) return {Elsewhere::State::kRunning, ""};
    return {Elsewhere::State::kStop, failure_->text};
  }
  if (!announced_end_) store_->add(ended_key(attempt), 1);
  announced_end_ = true;
  const bool together = to_number(store_->try_get(ended_key(attempt))) == info_.nnodes;
  // A node that failed publishes before it counts itself as ended, so now the verdict is complete.
  if (together && !is_final()) {
    if (const auto text = store_->try_get(failure_key(attempt))) failure_ = decode(*text);
  }
  const bool over = together || is_final();
  return {over ? Elsewhere::State::kFinished : Elsewhere::State::kRunning, ""};
}

void NodeGroup::leave() noexcept {
  try {
    store_->add("left", 1);
    if (info_.node_rank != 0) return;
    const Deadline deadline = Deadline::after(kFarewell);
    while (to_number(store_->try_get("left")) < info_.nnodes && !deadline.passed()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(kPollMilliseconds));
    }
  } catch (const std::exception&) {
    // The store is gone, and with it those who would have waited.
  }
}

}  // namespace lockstep::launch
