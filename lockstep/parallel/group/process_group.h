#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "lockstep/core/comm/communicator.h"
#include "lockstep/core/comm/init.h"

namespace at {
class Tensor;
}

namespace lockstep {

/// Collective communication on tensors: checks what a tensor is (device, layout, dtype) and hands its memory to the
/// Communicator. The only door between the tensor wing and core.
///
/// Every function requires dense, contiguous CPU tensors of a dtype in core's table, and throws UsageError that names
/// the argument, what it is and what was expected, before any byte moves. Order, threads and failure: as Communicator.
class ProcessGroup {
 public:
  explicit ProcessGroup(std::shared_ptr<Communicator> communicator, RankEnvironment environment = {},
                        std::shared_ptr<Store> store = nullptr);

  int rank() const noexcept;
  int world_size() const noexcept;
  int local_rank() const noexcept { return environment_.local_rank; }
  int local_world_size() const noexcept { return environment_.local_world_size; }
  const RankEnvironment& environment() const noexcept { return environment_; }
  Communicator& communicator() noexcept { return *communicator_; }
  /// The store that the ranks met in; null for a group that was made from a communicator alone.
  const std::shared_ptr<Store>& store() const noexcept { return store_; }

  void barrier(const OpOptions& options = {});
  /// In place on every rank.
  void all_reduce(at::Tensor& tensor, ReduceOp op = ReduceOp::kSum, const OpOptions& options = {});
  void broadcast(at::Tensor& tensor, int root, const OpOptions& options = {});
  /// output: world_size * input.numel() elements, rank r's at r * numel (concatenated or stacked shape).
  void all_gather(at::Tensor& output, const at::Tensor& input, const OpOptions& options = {});
  /// input: world_size * output.numel() elements; rank r receives the reduction of chunk r.
  void reduce_scatter(at::Tensor& output, const at::Tensor& input, ReduceOp op = ReduceOp::kSum,
                      const OpOptions& options = {});

  // Started, not waited for; the tensors' memory must stay until the Work is done.

  Work all_reduce_async(at::Tensor& tensor, ReduceOp op = ReduceOp::kSum, const OpOptions& options = {});
  Work broadcast_async(at::Tensor& tensor, int root, const OpOptions& options = {});
  Work all_gather_async(at::Tensor& output, const at::Tensor& input, const OpOptions& options = {});
  Work reduce_scatter_async(at::Tensor& output, const at::Tensor& input, ReduceOp op = ReduceOp::kSum,
                            const OpOptions& options = {});

  /// Collective: a flat, zeroed tensor of `numel` elements in memory that is reduced without a copy. The tensor owns
  /// the memory; it may outlive this object.
  at::Tensor allocate(std::int64_t numel, DType dtype, const OpOptions& options = {});

  /// Moves operations in flight forward without waiting.
  void progress() { communicator_->progress(); }
  /// Ends the group from any thread; see Communicator::abort.
  void abort(std::string_view cause) noexcept { communicator_->abort(cause); }

 private:
  std::shared_ptr<Communicator> communicator_;
  RankEnvironment environment_;
  std::shared_ptr<Store> store_;
};

/// Joins the job that the launcher's environment describes (torchrun's names, Open MPI, MPICH, Slurm; else a world of
/// one) and returns its world group. See init_from_environment for what it throws.
std::shared_ptr<ProcessGroup> init_process_group(const InitOptions& options = {});

}  // namespace lockstep
