#pragma once
// What tests of several groups share.

#include <algorithm>
#include <memory>
#include <vector>

#include "lockstep/core/comm/subgroup.h"
#include "tests/unit/core/comm/collective_fixture.h"

namespace lockstep::testing {

using Group = std::shared_ptr<Communicator>;
using Ranks = std::vector<int>;

inline bool contains(const Ranks& ranks, int rank) { return std::ranges::find(ranks, rank) != ranks.end(); }

inline std::int32_t mask_of(const Ranks& ranks) {
  std::int32_t mask = 0;
  for (const int rank : ranks) mask |= std::int32_t{1} << rank;
  return mask;
}

/// Collective over `group`: the set of its members' ranks in the world, as they themselves say.
inline std::int32_t members_of(Communicator& group) {
  std::int32_t mask = std::int32_t{1} << group.global_rank(group.rank());
  group.all_reduce(&mask, &mask, 1, DType::kInt32);
  return mask;
}

inline constexpr std::size_t kManyPieces = 600000;  ///< int32: more pieces than a rank has staging slots

/// An all_reduce in flight, with its buffer.
class Flight {
 public:
  Flight(Communicator& group, std::size_t count, std::size_t offset = 0)
      : data_(count), offset_(offset), world_(group.world_size()) {
    Pattern::of_rank(group.rank(), DType::kInt32).write(data_.data(), count, offset);
    work_ = group.all_reduce_async(data_.data(), data_.data(), count, DType::kInt32);
  }
  void wait() { work_.wait(); }
  std::size_t count_wrong() const {
    return Pattern::of_result(world_, DType::kInt32).count_wrong(data_.data(), data_.size(), offset_);
  }

 private:
  std::vector<std::int32_t> data_;  // Stays where it is when a Flight moves.
  std::size_t offset_;
  int world_;
  Work work_;
};

}  // namespace lockstep::testing
