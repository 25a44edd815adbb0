#pragma once
// Moves the operations of one rank through their stages, in order, without ever waiting; and waits, where asked to.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lockstep/core/backend/in_flight_engine.h"
#include "lockstep/core/backend/shm/mailbox.h"
#include "lockstep/core/backend/shm/operation.h"
#include "lockstep/core/backend/shm/segment.h"

namespace lockstep::shm {

/// Thread safety: one thread at a time, but for progress_from_elsewhere(). Failure: the group's (failure.h), as typed
/// errors. Held by shared_ptr, since a thread that has something in flight here keeps a weak one.
class Engine final : public InFlightEngine {
 public:
  /// Chooses how it waits by the CPUs of the segment's ranks.
  Engine(std::unique_ptr<Segment> segment, std::string group);
  Segment& segment() noexcept { return segment_; }
  const Segment& segment() const noexcept { return segment_; }

  /// Appends an operation and moves it as far as it goes. Waits only where kCapacity operations are in flight.
  void start(const Collective& collective, const Deadline& deadline);
  /// Moves everything as far as it goes; true when operation `sequence` is finished.
  bool test(std::uint64_t sequence);
  void wait(std::uint64_t sequence, const Deadline& deadline);
  /// start() and wait().
  void run(const Collective& collective, const Deadline& deadline);

  void start(const Message& message);
  bool test_message(std::uint64_t id);
  void wait_message(std::uint64_t id, Deadline deadline);
  int take_source_of(std::uint64_t id) { return mailbox_.take_source_of(id); }

  int look_after(std::span<const int> ranks);
  PeerState last_seen(int rank) const;

 private:
  static constexpr std::uint64_t kCapacity = 256;  ///< operations in flight

  /// What a caller waits for: an operation, or a message.
  struct Goal {
    std::uint64_t number;
    bool is_message;
  };

  Operation& operation(std::uint64_t sequence) { return operations_[(sequence - first_) % kCapacity]; }
  const Operation& operation(std::uint64_t sequence) const { return operations_[(sequence - first_) % kCapacity]; }
  bool finished(std::uint64_t sequence) const noexcept { return sequence < finish_.sequence; }
  bool idle() const noexcept override { return finished(started_) && mailbox_.idle(); }
  bool reached(const Goal& goal) const {
    return goal.is_message ? mailbox_.completed(goal.number) : finished(goal.number);
  }

  /// A position in the stream of ticks: the operation and tick that a stage is about to do.
  struct Cursor {
    std::uint64_t sequence = 1;
    std::uint64_t tick = 0;
  };
  void begin(const Collective& collective, const Deadline& deadline);
  void advance(Cursor& cursor);
  bool behind(const Cursor& cursor, const Cursor& other) const noexcept { return cursor.tick < other.tick; }

  bool progress() override;
  bool has_ended() noexcept override;
  bool try_post();
  bool try_work();
  bool try_finish();
  bool awaits_others(const Operation& operation) const noexcept;
  bool slot_is_free(std::uint64_t tick, bool needs_slot);
  void check_agreement(int peer, const Arrival& theirs);
  void close(Operation& operation);
  std::uint64_t last_conflict(const Operation& later) const;

  bool test(const Goal& goal);
  void wait(const Goal& goal, const Deadline& deadline);
  bool blocks(const Goal& goal, int peer) const;
  int blocking_rank(const Goal& goal) const;
  std::string missing_ranks(const Goal& goal) const;
  /// "rank 3/8 group dp: all_reduce #1042 (...)": the message, or the oldest unfinished operation, or the group alone.
  std::string doing(const Goal& goal) const;
  std::string doing() const { return doing({started_, false}); }
  bool has_done_its_part(int peer) const;
  void back_off(std::uint64_t polls, const Deadline& deadline, const Goal& goal);
  void sleep(const Deadline& deadline, const Goal& goal);
  void check_peers(const Goal& goal);
  [[noreturn]] void fail_for(int peer, const Goal& goal);
  void time_out(const Deadline& deadline, const Goal& goal);

  std::unique_ptr<Segment> owned_;  // Here, since a thread that looks in may be the last to hold the engine.
  Segment& segment_;
  std::string group_;
  WaitPolicy policy_;
  Mailbox mailbox_;
  std::vector<Operation> operations_;
  std::uint64_t first_ = 1;    ///< the operation that has place 0: one at a time, they all use memory that is in cache
  std::uint64_t started_ = 0;  ///< sequence of the newest operation
  Cursor post_{1, 0};
  Cursor work_{1, 0};
  Cursor finish_{1, 0};
  int arrived_ = 0;                      ///< ranks below this are known to have posted tick work_.tick
  int worked_ = 0;                       ///< ranks below this are known to have worked tick finish_.tick
  std::vector<std::uint64_t> released_;  ///< last known released counter of each rank
  Clock::time_point last_check_{};       ///< of the peers' lives
};

}  // namespace lockstep::shm
