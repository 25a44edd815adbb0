#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/parallel/group/process_group.h"

namespace lockstep {

struct JoinOptions {
  /// True: gradients are divided by the number of all ranks throughout, so that every sample weighs the same. False: by
  /// the number of ranks that still have inputs.
  bool divide_by_initial_world_size = true;
  /// True: as soon as one rank has no more inputs, every rank's next forward (or the end of its loop) throws
  /// MismatchError, which names the ranks that ran out. Needed where forward itself communicates (SyncBatchNorm), whose
  /// operations nobody shadows.
  bool throw_on_early_termination = false;
};

/// One step of a loop in which some ranks may have run out of inputs; alike on all ranks.
struct JoinRound {
  int active = 0;            ///< ranks that still have inputs
  int root = 0;              ///< the lowest of them
  int last = 0;              ///< the highest of them
  int divisor = 1;           ///< what sums over ranks are divided by; see JoinOptions
  bool synchronises = true;  ///< false: this step averages nothing (no_sync)
};

class JoinContext;

/// Something that communicates in every step and can stand in for itself where there is no input:
/// DistributedDataParallel is one. A type of the program's own derives from this, and calls
/// join_round(synchronises) at the start of each step; torch.distributed.algorithms.Joinable.
class Joinable {
 public:
  Joinable() = default;
  Joinable(const Joinable&) = delete;
  Joinable& operator=(const Joinable&) = delete;
  virtual ~Joinable() = default;

  /// The group that its steps communicate in.
  virtual ProcessGroup& join_group() = 0;
  /// Takes part, with nothing to add, in what the ranks that have inputs do in the forward of `round` ...
  virtual void shadow_forward(const JoinRound& round) = 0;
  /// ... and in its backward.
  virtual void shadow_backward(const JoinRound& round) = 0;
  /// Collective, when no rank has inputs left: makes replicas equal to those of round.last, one of the ranks that
  /// worked in the last step.
  virtual void after_join(const JoinRound& round) = 0;

 protected:
  /// Collective among the ranks inside join(): tells the others that this rank has an input. Null outside of join().
  const JoinRound* join_round(bool synchronises);
  bool inside_join() const noexcept { return context_ != nullptr; }

 private:
  friend class JoinContext;
  JoinContext* context_ = nullptr;
};

/// Runs `loop` on ranks with unequal numbers of inputs. A rank whose loop has ended answers for itself, with zeros, in
/// the operations of the others until every loop has ended; then all replicas become equal to those of a rank that
/// worked to the end. torch.distributed.algorithms.Join.
///
/// Collective. Each step of `loop` runs forward and backward of every one of `joinables`, which have a group each. An
/// evaluation inside of it (no gradient mode) communicates nothing: each rank's buffers are as they are.
/// Cost: one all-gather of 8 bytes a rank per step, in the group of the first.
/// Throws what the loop throws; UsageError for no joinables or one that is inside another join().
void join(const std::vector<Joinable*>& joinables, const std::function<void()>& loop, const JoinOptions& options = {});

}  // namespace lockstep
