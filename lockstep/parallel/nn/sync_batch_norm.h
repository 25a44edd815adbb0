#pragma once

#include <iosfwd>
#include <memory>

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/options/batchnorm.h>
#include <torch/nn/pimpl.h>

#include "lockstep/parallel/group/process_group.h"

namespace torch::nn {
class BatchNorm1dImpl;
class BatchNorm2dImpl;
class BatchNorm3dImpl;
}  // namespace torch::nn

namespace lockstep {

/// Batch normalisation (Ioffe and Szegedy 2015) whose statistics are those of the global batch: what all ranks of a
/// group pass to the same forward, taken together. Without a group, with a group of one rank, and in eval mode it is
/// torch::nn::BatchNorm1d, 2d or 3d, whose options, parameters (weight, bias), buffers (running_mean, running_var,
/// num_batches_tracked) and defaults it has, so that weights and checkpoints of one load into the other.
///
///     lockstep::SyncBatchNorm norm(64);                       // in a module: a BatchNorm of any number of dims
///     lockstep::convert_sync_batch_norm(*net, world->new_group(all_ranks));   // and from here on a synchronised one
///
/// Input: [batch, num_features, ...], floating-point. Ranks may have batches of any size, none included; the result is
/// that of one process with the whole batch, to rounding. Statistics are taken in the input's dtype (half types:
/// float32) and combined in float64 from (count, mean, M2) of each rank: Chan, Golub and LeVeque 1979.
///
/// Cost: forward, one all_gather of 2 num_features + 1 float64 per rank; backward, one all_reduce of 2 num_features
/// float64, where the input requires a gradient. Gradients of weight and bias are this rank's share: DDP averages them.
///
/// Collective in training mode: each rank calls forward of the same modules in the same order, and backward as well. A
/// rank with an empty batch takes part like the others: its output, empty as it is, must belong to the graph of its
/// loss, and the input requires a gradient on all ranks or on none.
/// Backward adds what ranks pass it: with unequal batches each loss must count for its samples before backward,
/// (mean loss) * samples * world_size / samples of all ranks, for DDP's mean over ranks to be that over samples.
/// Group: one of its own (`world->new_group` of all ranks), which all norms of a model may share. In DDP's group the
/// backward's operations would lie between those of DDP's buckets, whose place in the order follows the arrival of
/// gradients: where two ranks differ in it, MismatchError.
///
/// Throws UsageError for an input without a floating dtype, without two dims or with another number of features, for a
/// global batch of one value per channel in training, as libtorch does, and for backward with create_graph where it
/// synchronises. Else as ProcessGroup; what fails in backward comes out of backward().
/// Threads: one at a time. Source: torch.nn.SyncBatchNorm.
class SyncBatchNormImpl : public torch::nn::Cloneable<SyncBatchNormImpl> {
 public:
  /// `options` may be the number of features alone. A null group: batch normalisation of this rank's batch.
  explicit SyncBatchNormImpl(const torch::nn::BatchNormOptions& options_,
                             std::shared_ptr<ProcessGroup> group = nullptr);

  /// With the options and the mode of `norm`, whose parameters and buffers it shares.
  explicit SyncBatchNormImpl(const torch::nn::BatchNorm1dImpl& norm, std::shared_ptr<ProcessGroup> group = nullptr);
  explicit SyncBatchNormImpl(const torch::nn::BatchNorm2dImpl& norm, std::shared_ptr<ProcessGroup> group = nullptr);
  explicit SyncBatchNormImpl(const torch::nn::BatchNorm3dImpl& norm, std::shared_ptr<ProcessGroup> group = nullptr);

  /// input's shape and dtype.
  at::Tensor forward(const at::Tensor& input);

  /// From the next forward on. Null: as without a group.
  void set_group(std::shared_ptr<ProcessGroup> group) noexcept { group_ = std::move(group); }
  const std::shared_ptr<ProcessGroup>& group() const noexcept { return group_; }

  /// Makes parameters and buffers anew.
  void reset() override;
  void pretty_print(std::ostream& stream) const override;

  torch::nn::BatchNormOptions options;
  at::Tensor weight;               ///< [num_features]; undefined unless affine
  at::Tensor bias;                 ///< the same
  at::Tensor running_mean;         ///< [num_features]; undefined unless track_running_stats
  at::Tensor running_var;          ///< the same; unbiased
  at::Tensor num_batches_tracked;  ///< int64; undefined unless track_running_stats

 private:
  template <typename Norm>
  void share(const Norm& norm);
  double count_batch();
  at::Tensor forward_synchronised(const at::Tensor& input);

  std::shared_ptr<ProcessGroup> group_;
};
TORCH_MODULE(SyncBatchNorm);

/// Makes each batch normalisation of `module` one over `group`, and changes nothing else: names, parameters, buffers
/// and modes stay, so that optimizers and checkpoints do not notice. Not collective.
///
/// A SyncBatchNorm gets the group. An entry of a torch::nn::Sequential that is a torch::nn::BatchNorm1d, 2d or 3d is
/// replaced by a SyncBatchNorm that shares its tensors. Any other BatchNorm is called by code that was compiled for it
/// (`bn1->forward(x)` of a member is no virtual call), which nothing can redirect: UsageError that names them all, and
/// nothing is changed. Declare those as lockstep::SyncBatchNorm, which without a group is the same.
/// Entries of a Sequential must be called through it: a holder of the old entry that was kept elsewhere stays what it
/// was.
/// Source: torch.nn.SyncBatchNorm.convert_sync_batchnorm.
void convert_sync_batch_norm(torch::nn::Module& module, const std::shared_ptr<ProcessGroup>& group);

}  // namespace lockstep
