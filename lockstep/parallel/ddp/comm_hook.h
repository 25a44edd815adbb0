#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "lockstep/parallel/group/process_group.h"

namespace lockstep {

/// What a hook sees of a bucket of gradients. Valid during the call.
struct GradientBucket {
  std::size_t index = 0;  ///< in the order of launches, the same on all ranks
  bool is_last = false;   ///< of the backward
  at::Tensor buffer;      ///< flat, backend memory: all gradients of the bucket, one after the other, with gaps
  /// Gradients in `buffer`, in the shapes of their parameters.
  std::vector<at::Tensor> gradients;
  std::vector<std::string> parameters;  ///< their names
  /// What this rank's gradients count for in the average: 1 / world_size, unless samples are weighed or ranks have run
  /// out of data (see DistributedDataParallel::average_over_samples and join). Factors of all ranks add up to one.
  double factor = 1;
};

/// Replaces DDP's all-reduce of a bucket: what is sent, and how. torch.distributed's communication hooks.
///
/// Nothing divides behind it: `buffer` must hold the average when finish() returns, bit for bit the same on every rank.
/// Every function is called on all ranks for the same buckets in the same order, in the thread that runs backward.
/// An exception ends the group and comes out of backward().
class CommHook {
 public:
  virtual ~CommHook() = default;
  /// Short, for messages and traces; alike on all ranks.
  virtual std::string name() const = 0;
  /// Collective: the buckets are laid out (again); for memory of the hook's own.
  virtual void prepare(ProcessGroup& group, const std::vector<GradientBucket>& buckets);
  /// All gradients of the bucket are there: starts its communication.
  virtual Work start(ProcessGroup& group, const GradientBucket& bucket) = 0;
  /// The Work of start() is complete.
  virtual void finish(ProcessGroup& group, const GradientBucket& bucket);
};

/// Gradients of float32 and float64 travel as float16 or bfloat16 (half or a quarter of the bytes); others as they are.
/// Each rank's gradient is rounded, divided in the narrow type and sent, and the sum, added in float32, is rounded: the
/// bits of PyTorch's hook. What is beyond the narrow type's range before the division is infinite
/// (torch.distributed.algorithms.ddp_comm_hooks.default_hooks.fp16_compress_hook). Memory: the size of the gradients in
/// the narrow type.
std::shared_ptr<CommHook> fp16_compress_hook();
std::shared_ptr<CommHook> bf16_compress_hook();

}  // namespace lockstep
