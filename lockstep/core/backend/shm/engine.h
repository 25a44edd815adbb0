#pragma once
// Moves the operations of one rank through their stages, in order, without ever waiting; and waits, where asked to.

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/core/backend/shm/segment.h"
#include "lockstep/core/backend/shm/steps.h"

namespace lockstep::shm {

/// Thread safety: one thread at a time. Failure: the group's (failure.h), as typed errors.
class Engine {
 public:
  Engine(Segment& segment, std::string group, WaitPolicy policy, Tuning tuning);

  /// Appends an operation and moves it as far as it goes. Waits only where kCapacity operations are in flight.
  void start(const Collective& collective, Deadline deadline);
  /// Moves everything as far as it goes; true when operation `sequence` is finished.
  bool test(std::uint64_t sequence);
  void wait(std::uint64_t sequence, Deadline deadline);
  PeerState last_seen(int rank) const;
  /// "rank 3/8 group dp: all_reduce #1042 (...)", of the oldest unfinished operation or of the group alone.
  std::string doing() const;

 private:
  static constexpr std::uint64_t kCapacity = 256;  ///< operations in flight

  Operation& operation(std::uint64_t sequence) { return operations_[sequence % kCapacity]; }
  const Operation& operation(std::uint64_t sequence) const { return operations_[sequence % kCapacity]; }
  bool finished(std::uint64_t sequence) const noexcept { return sequence < finish_.sequence; }

  /// A position in the stream of ticks: the operation and tick that a stage is about to do.
  struct Cursor {
    std::uint64_t sequence = 1;
    std::uint64_t tick = 0;
  };
  void advance(Cursor& cursor) const;
  bool behind(const Cursor& cursor, const Cursor& other) const noexcept { return cursor.tick < other.tick; }

  bool progress();
  bool try_post();
  bool try_work();
  bool try_finish();
  bool slot_is_free(std::uint64_t tick, bool needs_slot);
  void check_agreement(int peer, const Arrival& theirs);
  void wake_those_who_wait();
  std::uint64_t last_conflict(const Collective& collective) const;

  int blocking_rank() const;
  std::string missing_ranks() const;
  bool has_done_its_part(int peer) const;
  void back_off(std::uint64_t polls, const Deadline& deadline, std::uint64_t sequence);
  void sleep(const Deadline& deadline);
  void check_peers();
  void time_out(const Deadline& deadline, std::uint64_t sequence);

  Segment& segment_;
  std::string group_;
  WaitPolicy policy_;
  Tuning tuning_;
  std::vector<Operation> operations_;
  std::uint64_t started_ = 0;  ///< sequence of the newest operation
  Cursor next_{1, 0};          ///< where the next started operation begins
  Cursor post_{1, 0};
  Cursor work_{1, 0};
  Cursor finish_{1, 0};
  int arrived_ = 0;                      ///< ranks below this are known to have posted tick work_.tick
  int worked_ = 0;                       ///< ranks below this are known to have worked tick finish_.tick
  std::vector<std::uint64_t> released_;  ///< last known released counter of each rank
  Clock::time_point last_check_{};       ///< of the peers' lives
};

}  // namespace lockstep::shm
