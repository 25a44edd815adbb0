#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "lockstep/parallel/group/process_group.h"

namespace at {
class Tensor;
}

/// Collectives that autograd knows: they return a new tensor, and backward of each is its adjoint, a collective as
/// well. For losses over the global batch (contrastive losses through all_gather), tensor and sequence parallelism,
/// expert parallelism (all_to_all). Semantics: torch.distributed.nn.functional and torch.distributed's functional
/// collectives.
///
/// What is differentiated is the sum of the losses of all ranks: where every rank computes the same loss and calls
/// backward on it, gradients come out world_size times as large; let each rank compute its own share.
///
/// Backward:   moves bytes. Every rank must run it for the same functions in the same order, so: each rank builds the
///             same graph, the result contributes to the loss on every rank (times zero if need be), `input` requires
///             a gradient on all ranks or on none, and gradient mode is on for all or for none. A rank that does
///             otherwise is a MismatchError or a TimeoutError of the others. DDP's all-reduce during the same backward
///             counts among the calls of its group: give the two a group each (see ProcessGroup::new_group).
/// Gradients:  of gradients as well: backward with create_graph works.
/// Reductions: sum, avg and premul_sum. UsageError for others: no gradient is defined.
/// Tensors:    dense CPU tensors of any strides; the result is contiguous and shares no memory with `input`. UsageError
///             as ProcessGroup's. Errors in backward come out of backward().
/// Lifetime:   the graph keeps the group alive.
namespace lockstep::functional {

using Group = std::shared_ptr<ProcessGroup>;
using Sizes = ProcessGroup::Sizes;

/// input's shape: the reduction over all ranks. Backward: all_reduce of the gradients, with the same reduction.
at::Tensor all_reduce(const at::Tensor& input, const Group& group, Reduction op = {});

/// input's shape: the reduction at `root`; zeros elsewhere. Backward: broadcast from root.
at::Tensor reduce(const at::Tensor& input, const Group& group, int root, Reduction op = {});

/// `root`'s tensor on every rank; elsewhere `input` says shape, dtype and whether a gradient is required. Backward: the
/// sum of all gradients goes to root; zeros elsewhere.
at::Tensor broadcast(const at::Tensor& input, const Group& group, int root);

/// Everyone's tensors, concatenated along `dim` in rank order: world_size times input's size there. A tensor without
/// dims counts as one element. Backward: reduce_scatter (sum).
at::Tensor all_gather(const at::Tensor& input, const Group& group, std::int64_t dim = 0);
/// Unequal: rank r's tensor has sizes[r] along `dim`, and is alike in the other dims. `sizes` is alike on all ranks.
at::Tensor all_gather(const at::Tensor& input, const Group& group, const Sizes& sizes, std::int64_t dim = 0);

/// Rank r receives the reduction of everyone's part r of world_size equal parts along `dim`. Backward: all_gather.
at::Tensor reduce_scatter(const at::Tensor& input, const Group& group, Reduction op = {}, std::int64_t dim = 0);
/// Unequal: part r has sizes[r] along `dim`. `sizes` is alike on all ranks.
at::Tensor reduce_scatter(const at::Tensor& input, const Group& group, const Sizes& sizes, Reduction op = {},
                          std::int64_t dim = 0);

/// Part d of world_size equal parts along dim 0 goes to rank d; the result is the parts that came, in rank order.
/// Backward: all_to_all the other way.
at::Tensor all_to_all(const at::Tensor& input, const Group& group);
/// Unequal: input_split_sizes[d] rows of dim 0 go to rank d, output_split_sizes[s] come from rank s.
at::Tensor all_to_all(const at::Tensor& input, const Group& group, const Sizes& output_split_sizes,
                      const Sizes& input_split_sizes);

}  // namespace lockstep::functional
