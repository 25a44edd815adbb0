#pragma once

#include <memory>
#include <vector>

#include "lockstep/parallel/group/process_group.h"

namespace lockstep {

struct ClipGradOptions {
  double norm_type = 2;  ///< p of the p-norm, above 0; infinity: the largest magnitude
  bool error_if_nonfinite =
      false;  ///< UsageError for a total norm of inf or nan; else gradients become what they become
};

/// Scales the gradients of `parameters` in place, so that their norm, as if they were one vector, is at most
/// `max_norm`: by min(1, max_norm / (norm + 1e-6)). Returns the norm before that. Parameters without a gradient do not
/// count. After unscaling (GradScaler::unscale), before the optimizer's step.
///
/// With DistributedDataParallel gradients are equal on all ranks after backward, so this norm is the global one: no
/// group, no communication.
/// With a group, `parameters` are this rank's part of all (shards, pipeline stages): collective, one all_reduce of one
/// float64, and the norm is that of the parts of all ranks together. A parameter that several ranks hold counts as
/// often.
///
/// Cost: one pass that reads, and one more only where it clips. UsageError for a norm_type of 0 or less, a negative
/// max_norm, and as options say; else as ProcessGroup. Source: torch.nn.utils.clip_grad_norm_.
double clip_grad_norm(const std::vector<at::Tensor>& parameters, double max_norm, const ClipGradOptions& options = {},
                      const std::shared_ptr<ProcessGroup>& group = nullptr);

/// Clamps each element of each gradient to [-clip_value, clip_value], in place, in one pass. UsageError for a negative
/// clip_value. Source: torch.nn.utils.clip_grad_value_.
void clip_grad_value(const std::vector<at::Tensor>& parameters, double clip_value);

}  // namespace lockstep
