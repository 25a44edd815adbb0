#include "lockstep/core/backend/self/self_backend.h"

#include <array>
#include <atomic>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "lockstep/core/backend/buffers.h"
#include "lockstep/core/backend/inbox.h"
#include "lockstep/core/backend/packed.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/error.h"
#include "lockstep/core/kernels/kernels.h"

namespace lockstep {
namespace {

class SelfBackend final : public Backend {
 public:
  std::string_view name() const noexcept override { return "self"; }
  int rank() const noexcept override { return 0; }
  int world_size() const noexcept override { return 1; }

  void start(const Collective& collective, Deadline) override {
    require_usable();
    if (collective.packed) collective.packed->pack();
    move(collective);
    if (collective.packed) collective.packed->unpack();
  }
  void move(const Collective& collective) {
    const bool moves = collective.kind != OpKind::kBarrier && collective.kind != OpKind::kBroadcast;
    if (!moves) return;
    if (!collective.recv_counts.empty() && collective.recv_counts[0] != collective.count) {
      throw MismatchError(base::cat(describe(collective), ": rank 0 sends ", collective.count,
                                    " elements to itself and expects ", collective.recv_counts[0]));
    }
    if (collective.count == 0) return;
    if (reduces(collective.kind) && collective.op == ReduceOp::kPreMulSum) {
      const std::array<const void*, 1> sources = {collective.input};
      const std::array<void*, 1> destinations = {collective.output};
      return kernels::reduce(sources, destinations, collective.count,
                             {collective.dtype, collective.op, 1, {&collective.factor, 1}});
    }
    if (collective.output == collective.input) return;
    std::memmove(collective.output, collective.input, collective.count * size_of(collective.dtype));
  }
  bool test(std::uint64_t) override {
    require_usable();
    return true;
  }
  void wait(std::uint64_t, Deadline) override { require_usable(); }

  void start(const Message& message, Deadline) override {
    require_usable();
    if (message.kind == OpKind::kRecv) {
      inbox_.post(message);
    } else {
      const auto* const data = static_cast<const std::byte*>(message.buffer);
      const std::size_t nbytes = message.count * size_of(message.dtype);
      sent_.push_back({{0, message.tag, message.dtype, message.count}, {data, data + nbytes}});
    }
    deliver();
  }
  bool test_message(std::uint64_t id, int& source) override {
    require_usable();
    source = 0;
    return !inbox_.holds(id);
  }
  int wait_message(std::uint64_t id, Deadline deadline) override {
    require_usable();
    if (!inbox_.holds(id)) return 0;
    throw TimeoutError(base::cat("rank 0/1: ", describe(*inbox_.posted(id)), " after ", seconds(deadline.timeout()),
                                 " s or ever: nobody else can send it; send it before waiting for it"),
                       0, id);
  }

  int look_after(std::span<const int>) override {
    require_usable();
    return -1;
  }

  BackendMemory allocate(std::size_t nbytes, std::uint64_t, Deadline) override {
    require_usable();
    return allocate_host_memory(nbytes);
  }

  void abort(std::string_view cause) noexcept override {
    const std::lock_guard lock(mutex_);
    if (!aborted_) cause_ = cause;
    aborted_ = true;
  }
  void close() noexcept override {}
  PeerState last_seen(int) const override { return {}; }
  std::vector<PathEstimate> explain(const Collective&, bool) const override { return {}; }

 private:
  struct Sent {
    Inbox::Header header;
    std::vector<std::byte> bytes;
  };

  void require_usable() {
    if (!aborted_) return;
    const std::lock_guard lock(mutex_);
    throw AbortedError("rank 0/1: aborted: " + cause_);
  }

  void deliver() {
    while (!sent_.empty()) {
      Inbox::Arriving* const arriving = inbox_.begin(sent_.front().header);
      if (arriving == nullptr) return;
      const std::vector<std::byte>& bytes = sent_.front().bytes;
      if (!bytes.empty()) std::memcpy(arriving->destination, bytes.data(), bytes.size());
      inbox_.end(arriving);
      sent_.pop_front();
    }
  }

  Inbox inbox_{0};
  std::deque<Sent> sent_;
  std::mutex mutex_;
  std::atomic<bool> aborted_{false};
  std::string cause_;  // Guarded by mutex_.
};

}  // namespace

std::unique_ptr<Backend> make_self_backend() { return std::make_unique<SelfBackend>(); }

}  // namespace lockstep
