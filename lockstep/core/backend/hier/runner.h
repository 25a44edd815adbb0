#pragma once
// Carries programs out on the backends inside a host, across hosts and over all ranks, without ever waiting; and waits,
// where asked to.

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/core/backend/buffers.h"
#include "lockstep/core/backend/hier/calls.h"
#include "lockstep/core/backend/hier/program.h"
#include "lockstep/core/backend/in_flight_engine.h"
#include "lockstep/core/backend/wire/links.h"
#include "lockstep/core/base/error.h"

namespace lockstep::hier {

/// The backends that hier composes, each with what it takes to name its ranks.
struct Backends {
  std::unique_ptr<Backend> inner;
  std::unique_ptr<Backend> cross;  ///< null where this rank is no carrier
  std::unique_ptr<Backend> flat;
  /// Over all ranks: where the first failure is told, and what was called. Both listen before the last meeting of the
  /// ranks, so that nobody can fail before another hears of it.
  std::shared_ptr<wire::Transport> transport;
  std::unique_ptr<wire::FailureBox> failure;
  std::unique_ptr<Calls> calls;
};

/// Thread safety: one thread at a time, but for progress_from_elsewhere() and abort(). Failure: the group's, as typed
/// errors, which name ranks of the whole group.
class Runner final : public InFlightEngine {
 public:
  Runner(Backends backends, Topology topology, std::string group);
  ~Runner() override;

  const Topology& topology() const noexcept { return topology_; }
  bool any_thread() const noexcept { return backends_.transport->any_thread(); }
  void start(const Collective& collective, Deadline deadline);
  bool test(std::uint64_t sequence);
  void wait(std::uint64_t sequence, Deadline deadline);

  void start(const Message& message, Deadline deadline);
  bool test_message(std::uint64_t id, int& source);
  int wait_message(std::uint64_t id, Deadline deadline);

  BackendMemory allocate(const Collective& collective, Deadline deadline);
  int look_after(std::span<const int> ranks);
  void abort(std::string_view cause) noexcept;
  void close() noexcept;
  PeerState last_seen(int rank) const;

 private:
  static constexpr std::size_t kCapacity = 256;  ///< operations in flight

  struct Operation {
    Collective collective;  ///< as the caller gave it
    Extent extent;
    std::uint64_t origin = 0;  ///< what its steps carry
    std::uint64_t after = 0;   ///< may begin once this operation is finished here
    bool begun = false;
    Program program;
    const std::byte* input = nullptr;  ///< the caller's, or its parts in the order of hosts
    std::byte* output = nullptr;
    std::vector<std::byte> temporary;
    std::vector<std::byte> reordered;
    std::vector<std::size_t> offsets;  ///< of the caller's parts
    std::vector<bool> done;            ///< a step each
    std::size_t undone = 0;
    std::array<std::size_t, kEngineCount> next{};  ///< the first step that the engine has not begun
  };
  struct InEngine {
    Operation* operation;
    std::size_t step;
    std::uint64_t sequence;  ///< in that engine
  };

  Backend* backend(Engine engine) const noexcept;
  bool idle() const noexcept override { return operations_.empty() && messages_in_flight_ == 0; }
  bool finished(std::uint64_t sequence) const noexcept { return sequence <= finished_; }
  void begin(Operation& operation);
  void reorder_input(Operation& operation);
  void reorder_output(const Operation& operation);
  bool begin_steps(Engine engine);
  bool begin_step(Operation& operation, std::size_t index);
  Collective call_of(const Operation& operation, const Step& step) const;
  bool ready(const Operation& operation, const Step& step) const;
  void do_here(const Operation& operation, const Step& step) const;
  void complete(Operation& operation, std::size_t index);
  bool collect(Engine engine);
  bool retire();
  bool progress() override;
  bool has_ended() noexcept override { return failure_.poll(); }
  std::string doing() const;

  /// Runs `body`; what it throws becomes the group's failure, here and on all ranks.
  template <typename Body>
  auto guarded(Engine engine, Body body) {
    try {
      return body();
    } catch (const Error& error) {
      fail(engine, error);
    }
  }
  [[noreturn]] void fail(Engine engine, const Error& error);
  /// The group has failed: ends what moves, and throws what the failure is on this rank.
  [[noreturn]] void throw_failed();
  int rank_in_group(Engine engine, int rank) const;
  void end_all(std::string_view cause) noexcept;
  /// The engine in which the oldest operation waits for others; kHere: none.
  Engine waiting_in() const;
  /// At the deadline of this rank, which waits for `awaited`: the rank that all wait for in the end.
  int missing_rank(int awaited);
  /// `time_out`, given a deadline that has passed, throws, or returns where it came at the last moment.
  void wait_until(const std::function<bool()>& reached, const Deadline& deadline,
                  const std::function<void(const Deadline&)>& time_out);
  void time_out(const Deadline& deadline);

  Backends backends_;
  Topology topology_;
  Topology in_order_;  ///< the same ranks numbered host by host
  std::string group_;
  wire::FailureBox& failure_;
  Calls& calls_;
  std::deque<std::unique_ptr<Operation>> operations_;
  std::array<std::deque<InEngine>, kEngineCount> in_engine_;
  std::array<std::uint64_t, kEngineCount> sequence_{};
  std::uint64_t finished_ = 0;
  std::size_t messages_in_flight_ = 0;
  Clock::time_point last_check_{};
};

}  // namespace lockstep::hier
