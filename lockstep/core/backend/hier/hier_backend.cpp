#include "lockstep/core/backend/hier/hier_backend.h"

#include <algorithm>
#include <numeric>

#include "lockstep/core/backend/background.h"
#include "lockstep/core/backend/hier/runner.h"
#include "lockstep/core/backend/self/self_backend.h"
#include "lockstep/core/backend/shm/shm_backend.h"
#include "lockstep/core/backend/wire/view.h"
#include "lockstep/core/backend/wire/wire_backend.h"
#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

class HierBackend final : public Backend {
 public:
  HierBackend(hier::Backends backends, hier::Topology topology, const std::string& group)
      : cross_(backends.cross.get()),
        inner_(*backends.inner),
        runner_(std::make_shared<hier::Runner>(std::move(backends), std::move(topology), group)),
        topology_(runner_->topology()) {
    if (runner_->any_thread()) Background::add(runner_);
  }

  ~HierBackend() override { Background::remove(*runner_); }
  HierBackend(const HierBackend&) = delete;
  HierBackend& operator=(const HierBackend&) = delete;

  std::string_view name() const noexcept override { return "hier"; }
  int rank() const noexcept override { return topology_.rank; }
  int world_size() const noexcept override { return topology_.world_size; }

  void start(const Collective& collective, Deadline deadline) override { runner_->start(collective, deadline); }
  bool test(std::uint64_t sequence) override { return runner_->test(sequence); }
  void wait(std::uint64_t sequence, Deadline deadline) override { runner_->wait(sequence, deadline); }

  void start(const Message& message, Deadline deadline) override { runner_->start(message, deadline); }
  bool test_message(std::uint64_t id, int& source) override { return runner_->test_message(id, source); }
  int wait_message(std::uint64_t id, Deadline deadline) override { return runner_->wait_message(id, deadline); }

  BackendMemory allocate(std::size_t nbytes, std::uint64_t sequence, Deadline deadline) override {
    Collective collective;
    collective.kind = OpKind::kAllocate;
    collective.count = nbytes;
    collective.sequence = sequence;
    return runner_->allocate(collective, deadline);
  }

  int look_after(std::span<const int> ranks) override { return runner_->look_after(ranks); }
  void abort(std::string_view cause) noexcept override { runner_->abort(cause); }
  void close() noexcept override { runner_->close(); }
  PeerState last_seen(int rank) const override { return runner_->last_seen(rank); }

  std::vector<PathEstimate> explain(const Collective& collective, bool backend_memory) const override {
    const auto chosen_of = [](std::vector<PathEstimate> estimates) {
      for (const PathEstimate& each : estimates) {
        if (each.chosen) return each.us;
      }
      return 0.0;
    };
    // One shard across, the whole inside, twice.
    Collective shard = collective;
    shard.count = (collective.count + static_cast<std::size_t>(topology_.carriers()) - 1) /
                  static_cast<std::size_t>(topology_.carriers());
    const double across = cross_ != nullptr ? chosen_of(cross_->explain(shard, false)) : 0;
    const double inside = chosen_of(inner_.explain(collective, backend_memory));
    return {{"two_levels", std::max(across, inside), 1, true}};
  }

 private:
  Backend* cross_;
  Backend& inner_;
  std::shared_ptr<hier::Runner> runner_;
  const hier::Topology& topology_;
};

}  // namespace

std::unique_ptr<Backend> make_hier_backend(Store& store, const Meeting& meeting,
                                           const std::vector<std::string>& host_ids,
                                           std::shared_ptr<wire::Transport> transport) {
  hier::Topology topology = hier::topology_of(host_ids, meeting.rank);
  hier::Backends backends;
  const std::string on_host = base::cat(meeting.group, " on host ", topology.host());
  if (topology.local_size() == 1) {
    backends.inner = make_self_backend();
  } else {
    const auto keys =
        make_prefix_store(std::shared_ptr<Store>(&store, [](Store*) {}), base::cat("inner", topology.host()));
    Meeting inner = meeting;
    inner.group = on_host;
    inner.rank = topology.local_rank();
    inner.world_size = topology.local_size();
    backends.inner = make_shm_backend(*keys, inner);
  }
  std::vector<int> all(static_cast<std::size_t>(meeting.world_size));
  std::iota(all.begin(), all.end(), 0);
  backends.transport = wire::make_view(transport, all, 2);
  backends.failure = std::make_unique<wire::FailureBox>(*backends.transport);
  backends.calls = std::make_unique<hier::Calls>(*backends.transport);
  backends.flat = wire::make_wire_backend(wire::make_view(transport, all, 0), meeting.group, meeting.deadline);
  if (topology.is_carrier()) {
    const int carrier = topology.local_rank();
    backends.cross =
        wire::make_wire_backend(wire::make_view(transport, topology.carriers_at(carrier), 1),
                                base::cat(meeting.group, " between hosts, carrier ", carrier), meeting.deadline);
  }
  return std::make_unique<HierBackend>(std::move(backends), std::move(topology), meeting.group);
}

}  // namespace lockstep
