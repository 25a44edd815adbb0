#include "lockstep/core/backend/wire/wire_backend.h"

#include "lockstep/core/backend/background.h"
#include "lockstep/core/backend/buffers.h"
#include "lockstep/core/backend/wire/engine.h"

namespace lockstep::wire {
namespace {

class WireBackend final : public Backend {
 public:
  WireBackend(std::shared_ptr<Transport> transport, const std::string& group, Deadline deadline)
      : engine_(std::make_shared<Engine>(std::move(transport), group)), transport_(engine_->transport()) {
    engine_->measure(deadline);
    // An engine that may be called by one thread alone moves in its calls.
    if (transport_.any_thread()) Background::add(engine_);
  }

  ~WireBackend() override { Background::remove(*engine_); }
  WireBackend(const WireBackend&) = delete;
  WireBackend& operator=(const WireBackend&) = delete;

  std::string_view name() const noexcept override { return transport_.name(); }
  int rank() const noexcept override { return transport_.rank(); }
  int world_size() const noexcept override { return transport_.world_size(); }

  void start(const Collective& collective, Deadline deadline) override { engine_->start(collective, deadline); }
  bool test(std::uint64_t sequence) override { return engine_->test(sequence); }
  void wait(std::uint64_t sequence, Deadline deadline) override { engine_->wait(sequence, deadline); }

  void start(const Message& message, Deadline) override { engine_->start(message); }
  bool test_message(std::uint64_t id, int& source) override {
    if (!engine_->test_message(id)) return false;
    source = engine_->take_source_of(id);
    return true;
  }
  int wait_message(std::uint64_t id, Deadline deadline) override {
    engine_->wait_message(id, deadline);
    return engine_->take_source_of(id);
  }

  BackendMemory allocate(std::size_t nbytes, std::uint64_t sequence, Deadline deadline) override {
    Collective collective;
    collective.kind = OpKind::kAllocate;
    collective.count = nbytes;
    collective.sequence = sequence;
    engine_->start(collective, deadline);
    engine_->wait(sequence, deadline);
    return allocate_host_memory(nbytes);
  }

  int look_after(std::span<const int> ranks) override { return engine_->look_after(ranks); }
  void abort(std::string_view cause) noexcept override { engine_->abort(cause); }
  void close() noexcept override { engine_->close(); }
  PeerState last_seen(int rank) const override { return engine_->last_seen(rank); }

  std::vector<PathEstimate> explain(const Collective& collective, bool) const override {
    const Plan plan = plan_for(collective, world_size(), engine_->constants());
    std::vector<PathEstimate> estimates;
    for (const Algorithm algorithm : {Algorithm::kDirect, Algorithm::kTwoStep}) {
      const bool chosen = algorithm == plan.algorithm;
      if (!chosen && !has_two_forms(collective.kind)) continue;
      estimates.push_back({chosen && plan.rides_in_header ? "header" : name_of(algorithm),
                           model_us(collective, algorithm, world_size(), engine_->constants()), plan.pieces, chosen});
    }
    return estimates;
  }

 private:
  std::shared_ptr<Engine> engine_;
  Transport& transport_;
};

}  // namespace

std::unique_ptr<Backend> make_wire_backend(std::shared_ptr<Transport> transport, const std::string& group,
                                           Deadline deadline) {
  return std::make_unique<WireBackend>(std::move(transport), group, deadline);
}

}  // namespace lockstep::wire
