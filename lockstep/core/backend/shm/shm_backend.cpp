#include "lockstep/core/backend/shm/shm_backend.h"

#include "lockstep/core/backend/shm/engine.h"
#include "lockstep/core/backend/shm/failure.h"
#include "lockstep/core/backend/shm/segment.h"
#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

class ShmBackend final : public Backend {
 public:
  ShmBackend(Store& store, const Meeting& meeting)
      : engine_(std::make_shared<shm::Engine>(std::make_unique<shm::Segment>(store, meeting), meeting.group)),
        segment_(engine_->segment()) {}

  std::string_view name() const noexcept override { return "shm"; }
  int rank() const noexcept override { return segment_.rank(); }
  int world_size() const noexcept override { return segment_.world_size(); }

  void start(const Collective& collective, Deadline deadline) override { engine_->start(collective, deadline); }
  bool test(std::uint64_t sequence) override { return engine_->test(sequence); }
  void wait(std::uint64_t sequence, Deadline deadline) override { engine_->wait(sequence, deadline); }
  void run(const Collective& collective, const Deadline& deadline) override { engine_->run(collective, deadline); }

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
    try {
      segment_.reserve(nbytes);
    } catch (const Error& error) {
      abort(error.what());
      throw;
    }
    engine_->start(collective, deadline);
    engine_->wait(sequence, deadline);
    return segment_.map_reserved();
  }

  int look_after(std::span<const int> ranks) override { return engine_->look_after(ranks); }

  void abort(std::string_view cause) noexcept override {
    shm::report_failure(segment_, FailureKind::kAborted, -1, 0, cause);
  }

  // Peers look for the failure themselves before they touch this rank's memory (docs/design/0002).
  void close() noexcept override {}

  PeerState last_seen(int rank) const override { return engine_->last_seen(rank); }

  std::vector<PathEstimate> explain(const Collective& collective, bool backend_memory) const override {
    return shm::estimates_of(collective, world_size(), backend_memory, segment_.constants());
  }

 private:
  std::shared_ptr<shm::Engine> engine_;
  shm::Segment& segment_;
};

}  // namespace

std::unique_ptr<Backend> make_shm_backend(Store& store, const Meeting& meeting) {
  return std::make_unique<ShmBackend>(store, meeting);
}

}  // namespace lockstep
