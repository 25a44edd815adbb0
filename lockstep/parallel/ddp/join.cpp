#include "lockstep/parallel/ddp/join.h"

#include <algorithm>
#include <cstdint>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/error.h"

namespace lockstep {

// Before each step every rank says what it will do in it, in one all-gather of the first joinable's group. Those that
// have no input left then mirror the step's operations one by one.
class JoinContext {
 public:
  JoinContext(const std::vector<Joinable*>& joinables, const JoinOptions& options)
      : joinables_(joinables), options_(options) {
    LS_REQUIRE(!joinables.empty(), "join: no joinables; give it the DistributedDataParallel of the loop");
    for (const Joinable* joinable : joinables_) {
      LS_REQUIRE(joinable != nullptr && joinable->context_ == nullptr,
                 "join: a joinable is null or inside another join(); a loop is joined once");
    }
    for (Joinable* joinable : joinables_) joinable->context_ = this;
  }
  ~JoinContext() {
    for (Joinable* joinable : joinables_) joinable->context_ = nullptr;
  }
  JoinContext(const JoinContext&) = delete;
  JoinContext& operator=(const JoinContext&) = delete;

  const JoinRound* enter_step(const Joinable& joinable, bool synchronises) {
    if (&joinable == joinables_.front()) exchange(synchronises ? kSynchronises : kAccumulates);
    return &round_;
  }

  /// Until no rank has an input.
  void shadow_the_others() {
    while (exchange(kNoInput)) {
      for (Joinable* joinable : joinables_) joinable->shadow_forward(round_);
      if (!round_.synchronises) continue;
      for (Joinable* joinable : joinables_) joinable->shadow_backward(round_);
    }
    for (Joinable* joinable : joinables_) joinable->after_join(round_);
  }

 private:
  enum State : std::int64_t { kNoInput, kAccumulates, kSynchronises };

  /// False when no rank has an input: the round then stays that of the last step.
  bool exchange(std::int64_t mine) {
    ProcessGroup& group = joinables_.front()->join_group();
    std::vector<std::int64_t> states(static_cast<std::size_t>(group.world_size()));
    group.communicator().all_gather(&mine, states.data(), 1, DType::kInt64,
                                    {.timeout = {}, .label = "join: who has inputs"});
    std::vector<int> active;
    std::string out_of_inputs;
    for (std::size_t rank = 0; rank < states.size(); ++rank) {
      if (states[rank] != kNoInput) {
        active.push_back(static_cast<int>(rank));
      } else {
        out_of_inputs += base::cat(out_of_inputs.empty() ? "" : ", ", rank);
      }
    }
    if (active.empty()) return false;
    if (options_.throw_on_early_termination && active.size() < states.size()) {
      throw MismatchError(base::cat("join group ", group.name(), ": rank(s) ", out_of_inputs, " of ", states.size(),
                                    " ran out of inputs while others have more; give all ranks the same number of "
                                    "batches, or leave throw_on_early_termination off"));
    }
    const auto count = static_cast<int>(active.size());
    round_ = {.active = count,
              .root = active.front(),
              .last = active.back(),
              .divisor = options_.divide_by_initial_world_size ? group.world_size() : count,
              .synchronises = states[static_cast<std::size_t>(active.front())] == kSynchronises};
    for (const int rank : active) {
      if ((states[static_cast<std::size_t>(rank)] == kSynchronises) == round_.synchronises) continue;
      throw MismatchError(base::cat("join group ", group.name(), ": rank ", round_.root,
                                    round_.synchronises ? " averages" : " does not average", " in this step and rank ",
                                    rank, round_.synchronises ? " does not" : " does",
                                    "; use no_sync() in the same steps on all ranks"));
    }
    return true;
  }

  const std::vector<Joinable*>& joinables_;
  const JoinOptions& options_;
  JoinRound round_;
};

const JoinRound* Joinable::join_round(bool synchronises) {
  return context_ == nullptr ? nullptr : context_->enter_step(*this, synchronises);
}

void join(const std::vector<Joinable*>& joinables, const std::function<void()>& loop, const JoinOptions& options) {
  JoinContext context(joinables, options);
  loop();
  context.shadow_the_others();
}

}  // namespace lockstep
