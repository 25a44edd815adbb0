#include "lockstep/core/backend/self/self_backend.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/error.h"

namespace lockstep {
namespace {

class SelfBackend final : public Backend {
 public:
  std::string_view name() const noexcept override { return "self"; }
  int rank() const noexcept override { return 0; }
  int world_size() const noexcept override { return 1; }

  void start(const Collective& collective, Deadline) override {
    require_usable();
    const std::size_t nbytes = collective.count * size_of(collective.dtype);
    const bool moves = collective.kind != OpKind::kBarrier && collective.kind != OpKind::kBroadcast;
    if (moves && nbytes != 0 && collective.output != collective.input) {
      std::memmove(collective.output, collective.input, nbytes);
    }
  }
  bool test(std::uint64_t) override {
    require_usable();
    return true;
  }
  void wait(std::uint64_t, Deadline) override { require_usable(); }

  BackendMemory allocate(std::size_t nbytes, std::uint64_t, Deadline) override {
    require_usable();
    constexpr std::size_t kPage = 4096;
    const std::size_t size = (nbytes + kPage - 1) / kPage * kPage + (nbytes == 0 ? kPage : 0);
    void* const data = std::aligned_alloc(kPage, size);
    if (data == nullptr) throw SystemError(base::cat("allocating ", nbytes, " bytes"), ENOMEM);
    std::memset(data, 0, size);
    return {std::shared_ptr<void>(data, std::free), data, size};
  }

  void abort(std::string_view cause) noexcept override {
    const std::lock_guard lock(mutex_);
    if (!aborted_) cause_ = cause;
    aborted_ = true;
  }
  PeerState last_seen(int) const override { return {}; }

 private:
  void require_usable() {
    if (!aborted_) return;
    const std::lock_guard lock(mutex_);
    throw AbortedError("rank 0/1: aborted: " + cause_);
  }

  std::mutex mutex_;
  std::atomic<bool> aborted_{false};
  std::string cause_;  // Guarded by mutex_.
};

}  // namespace

std::unique_ptr<Backend> make_self_backend() { return std::make_unique<SelfBackend>(); }

}  // namespace lockstep
