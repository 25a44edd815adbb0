#include "lockstep/core/backend/shm/shm_backend.h"

#include "lockstep/core/backend/shm/engine.h"
#include "lockstep/core/backend/shm/failure.h"
#include "lockstep/core/backend/shm/segment.h"
#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

class ShmBackend final : public Backend {
 public:
  ShmBackend(Store& store, const std::string& group, int rank, int world_size, Deadline deadline)
      : segment_(store, group, rank, world_size, deadline),
        engine_(segment_, group, shm::choose_wait_policy(segment_.cpus()), shm::Tuning{}) {}

  std::string_view name() const noexcept override { return "shm"; }
  int rank() const noexcept override { return segment_.rank(); }
  int world_size() const noexcept override { return segment_.world_size(); }

  void start(const Collective& collective, Deadline deadline) override { engine_.start(collective, deadline); }
  bool test(std::uint64_t sequence) override { return engine_.test(sequence); }
  void wait(std::uint64_t sequence, Deadline deadline) override { engine_.wait(sequence, deadline); }

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
    engine_.start(collective, deadline);
    engine_.wait(sequence, deadline);
    return segment_.map_reserved();
  }

  void abort(std::string_view cause) noexcept override {
    shm::report_failure(segment_, shm::FailureKind::kAborted, -1, 0, cause);
  }

  PeerState last_seen(int rank) const override { return engine_.last_seen(rank); }

 private:
  shm::Segment segment_;
  shm::Engine engine_;
};

}  // namespace

std::unique_ptr<Backend> make_shm_backend(Store& store, const std::string& group, int rank, int world_size,
                                          Deadline deadline) {
  return std::make_unique<ShmBackend>(store, group, rank, world_size, deadline);
}

}  // namespace lockstep
