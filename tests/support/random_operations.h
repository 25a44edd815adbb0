#pragma once
// A run of random operations on random groups, the same on all ranks, each result checked: for faults and for soaks.

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "lockstep/core/comm/communicator.h"

namespace lockstep::support {

struct RandomOptions {
  std::size_t max_count = 100000;  ///< elements of one rank's part
  bool messages = true;            ///< send and recv as well
  bool subgroups = true;           ///< operations in groups of some ranks as well
  bool changing_groups = true;     ///< groups come and go during the run; else they are made at its start
  std::size_t max_groups = 6;      ///< besides the world
  std::size_t max_in_flight = 8;
  /// Of the k-th operation, in a group with these ranks of the world; nothing: the group's own deadline.
  std::function<std::optional<Duration>(std::uint64_t step, const std::vector<int>& ranks)> timeout = {};
};

/// Every rank of `world` makes one with the same seed and options and calls step() equally often.
///
/// What all ranks must do alike (group, operation, count, root ...) is drawn from the seed; how this rank goes about it
/// (waits or leaves it in flight, in which order it waits) from the seed and its rank.
class RandomOperations {
 public:
  RandomOperations(std::shared_ptr<Communicator> world, unsigned seed, RandomOptions options);
  ~RandomOperations();
  RandomOperations(const RandomOperations&) = delete;
  RandomOperations& operator=(const RandomOperations&) = delete;

  /// The next operation. Throws what it, or one that it waits for, throws; std::logic_error where a result is wrong.
  void step();
  /// Waits for everything in flight and checks it.
  void drain();

  /// Operations of the run so far, those of other ranks' groups included.
  std::uint64_t steps() const noexcept { return step_; }
  /// "step 37: all_gather of 1200 f32, ranks {0, 2}": what was begun or waited for last.
  const std::string& doing() const noexcept { return doing_; }
  /// The group whose call threw; null before.
  const std::shared_ptr<Communicator>& failed_group() const noexcept { return failed_; }
  /// Ends all groups, the world among them.
  void abort(const std::string& cause) noexcept;

 private:
  struct Member;
  struct Call;
  struct Flight;

  std::size_t draw(std::size_t n) { return static_cast<std::size_t>(shared_() % n); }
  std::size_t draw_own(std::size_t n) { return static_cast<std::size_t>(own_() % n); }
  std::size_t draw_count();
  Call draw_call(Member& member);

  void change_groups();
  void make_group();
  void split_world();
  void add_group(std::shared_ptr<Communicator> group, std::vector<int> ranks);
  void drop_group(std::size_t index);
  Duration init_timeout(const std::vector<int>& ranks) const;

  void launch(const Call& call);
  void start(const Call& call, Flight& flight);
  void start_unequal(const Call& call, Flight& flight);
  void start_coalesced(const Call& call, Flight& flight);
  void start_ring(const Call& call, Flight& flight);
  void gather_from_any(const Call& call, Flight& flight);
  void finish(std::size_t index);
  void finish_all_of(const Member& member);
  template <typename Body>
  void guarded(const std::shared_ptr<Communicator>& group, Body body);

  std::shared_ptr<Communicator> world_;
  RandomOptions options_;
  std::mt19937 shared_;
  std::mt19937 own_;
  std::uint64_t step_ = 0;
  std::string doing_;
  std::shared_ptr<Communicator> failed_;
  std::vector<std::unique_ptr<Member>> groups_;  // The world first; also those that this rank is not in.
  std::deque<std::unique_ptr<Flight>> in_flight_;
};

}  // namespace lockstep::support
