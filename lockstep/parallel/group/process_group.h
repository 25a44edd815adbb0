#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/comm/communicator.h"
#include "lockstep/core/comm/init.h"
#include "lockstep/core/comm/subgroup.h"

namespace at {
class Tensor;
}

namespace lockstep {

/// Collective communication on tensors: checks what a tensor is (device, layout, dtype) and hands its memory to the
/// Communicator. The only door between the tensor wing and core. Names, and what they do, are torch.distributed's
/// (docs/collectives.md has the table); gradients do not flow through these: see functional.h for those that they do.
///
/// Every function requires dense, contiguous CPU tensors of a dtype in core's table, and throws UsageError that names
/// the argument, what it is and what was expected, before any byte moves. Output and input do not overlap, or one is
/// this rank's chunk of the other (all_gather and reduce_scatter). Order, threads and failure: as Communicator.
///
/// p stands for world_size(). Where only numbers of elements are said, the shape is free: all_gather's output may be
/// the concatenation [p * n, ...] or the stack [p, n, ...].
class ProcessGroup {
 public:
  /// Dim-0 sizes, or elements, of each rank, in rank order.
  using Sizes = std::vector<std::int64_t>;

  explicit ProcessGroup(std::shared_ptr<Communicator> communicator, RankEnvironment environment = {},
                        std::shared_ptr<Store> store = nullptr);

  int rank() const noexcept;
  int world_size() const noexcept;
  const std::string& name() const noexcept;
  /// Of this process on its host, whatever the group.
  int local_rank() const noexcept { return environment_.local_rank; }
  int local_world_size() const noexcept { return environment_.local_world_size; }
  const RankEnvironment& environment() const noexcept { return environment_; }
  Communicator& communicator() noexcept { return *communicator_; }
  /// The store that the job's ranks met in, the same for all groups of a job; null for a group that was made from a
  /// communicator alone.
  const std::shared_ptr<Store>& store() const noexcept { return store_; }

  // ---- groups of some of the ranks ----

  /// A group of `ranks` (this group's, in the order of the new one). Only those ranks call it; see lockstep::new_group.
  std::shared_ptr<ProcessGroup> new_group(const std::vector<int>& ranks, const SubgroupOptions& options = {});
  /// Collective: ranks of one `color` become a group, in the order of `key`, then of rank; null where `color` is
  /// negative. See lockstep::split.
  std::shared_ptr<ProcessGroup> split(int color, int key, const SubgroupOptions& options = {});

  // ---- one tensor a rank ----

  void barrier(const OpOptions& options = {});
  /// In place on every rank. `op` is a ReduceOp, or premul_sum(this rank's factor).
  void all_reduce(at::Tensor& tensor, Reduction op = {}, const OpOptions& options = {});
  /// In place at `root`; the tensors of the other ranks are read only.
  void reduce(at::Tensor& tensor, int root, Reduction op = {}, const OpOptions& options = {});
  /// `root`'s tensor replaces that of every rank.
  void broadcast(at::Tensor& tensor, int root, const OpOptions& options = {});

  /// output: p * input.numel() elements, rank r's from r * input.numel() on.
  void all_gather(at::Tensor& output, const at::Tensor& input, const OpOptions& options = {});
  /// Unequal: rank r's input has counts[r] elements; output holds them one after the other. `counts` is alike on all
  /// ranks.
  void all_gather(at::Tensor& output, const at::Tensor& input, const Sizes& counts, const OpOptions& options = {});
  /// As all_gather, at `root` only: elsewhere output is not used and may be undefined.
  void gather(at::Tensor& output, const at::Tensor& input, int root, const OpOptions& options = {});

  /// input: p * output.numel() elements; rank r receives the reduction of everyone's chunk r.
  void reduce_scatter(at::Tensor& output, const at::Tensor& input, Reduction op = {}, const OpOptions& options = {});
  /// Unequal: rank r's output has counts[r] elements, and input the chunks of all ranks one after the other. `counts`
  /// is alike on all ranks.
  void reduce_scatter(at::Tensor& output, const at::Tensor& input, const Sizes& counts, Reduction op = {},
                      const OpOptions& options = {});
  /// input of `root`: p * output.numel() elements, of which rank r receives chunk r. Elsewhere input is not used and
  /// may be undefined.
  void scatter(at::Tensor& output, const at::Tensor& input, int root, const OpOptions& options = {});

  /// Dim 0 of input is cut in p equal parts, and part d goes to rank d; dim 0 of output is the parts that came, in rank
  /// order.
  void all_to_all(at::Tensor& output, const at::Tensor& input, const OpOptions& options = {});
  /// Unequal (all_to_all_single): input_split_sizes[d] rows of dim 0 go to rank d, and output_split_sizes[s] come from
  /// rank s. Rows of both tensors have the same number of elements. An empty list stands for equal parts.
  /// MismatchError where a rank sends another number of elements than its receiver expects.
  void all_to_all(at::Tensor& output, const at::Tensor& input, const Sizes& output_split_sizes,
                  const Sizes& input_split_sizes, const OpOptions& options = {});

  // ---- one rank to another: outside of the order of the collectives ----

  /// Sends to `peer`; returns when the memory may be changed. Messages of one tag (0 or more) keep their order.
  void send(const at::Tensor& tensor, int peer, int tag = 0, const OpOptions& options = {});
  /// Fills `tensor` with a message of the same dtype and number of elements from `source`, which may be kAnySource.
  /// Returns the rank that it came from.
  int recv(at::Tensor& tensor, int source, int tag = 0, const OpOptions& options = {});

  // ---- many tensors, one operation ----
  // Each tensor as in the plain form. All have one dtype, and there is at least one; lists are alike on all ranks
  // (sizes and order).

  void broadcast_coalesced(const std::vector<at::Tensor>& tensors, int root, const OpOptions& options = {});
  void all_reduce_coalesced(const std::vector<at::Tensor>& tensors, Reduction op = {}, const OpOptions& options = {});
  void all_gather_coalesced(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs,
                            const OpOptions& options = {});
  void reduce_scatter_coalesced(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs,
                                Reduction op = {}, const OpOptions& options = {});

  // ---- started, not waited for ----
  // The tensors' memory must stay until the Work is done: a tensor object may go, if another one keeps its memory.
  // Lists of sizes and of tensors are copied.

  Work barrier_async(const OpOptions& options = {});
  Work all_reduce_async(at::Tensor& tensor, Reduction op = {}, const OpOptions& options = {});
  Work reduce_async(at::Tensor& tensor, int root, Reduction op = {}, const OpOptions& options = {});
  Work broadcast_async(at::Tensor& tensor, int root, const OpOptions& options = {});
  Work all_gather_async(at::Tensor& output, const at::Tensor& input, const OpOptions& options = {});
  Work all_gather_async(at::Tensor& output, const at::Tensor& input, const Sizes& counts,
                        const OpOptions& options = {});
  Work gather_async(at::Tensor& output, const at::Tensor& input, int root, const OpOptions& options = {});
  Work reduce_scatter_async(at::Tensor& output, const at::Tensor& input, Reduction op = {},
                            const OpOptions& options = {});
  Work reduce_scatter_async(at::Tensor& output, const at::Tensor& input, const Sizes& counts, Reduction op = {},
                            const OpOptions& options = {});
  Work scatter_async(at::Tensor& output, const at::Tensor& input, int root, const OpOptions& options = {});
  Work all_to_all_async(at::Tensor& output, const at::Tensor& input, const OpOptions& options = {});
  Work all_to_all_async(at::Tensor& output, const at::Tensor& input, const Sizes& output_split_sizes,
                        const Sizes& input_split_sizes, const OpOptions& options = {});
  Work send_async(const at::Tensor& tensor, int peer, int tag = 0, const OpOptions& options = {});
  /// Once it is done, Work::peer() is the rank that the message came from.
  Work recv_async(at::Tensor& tensor, int source, int tag = 0, const OpOptions& options = {});
  Work broadcast_coalesced_async(const std::vector<at::Tensor>& tensors, int root, const OpOptions& options = {});
  Work all_reduce_coalesced_async(const std::vector<at::Tensor>& tensors, Reduction op = {},
                                  const OpOptions& options = {});
  Work all_gather_coalesced_async(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs,
                                  const OpOptions& options = {});
  Work reduce_scatter_coalesced_async(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs,
                                      Reduction op = {}, const OpOptions& options = {});

  /// Collective: a flat, zeroed tensor of `numel` elements in memory that is reduced without a copy. The tensor owns
  /// the memory; it may outlive this object.
  at::Tensor allocate(std::int64_t numel, DType dtype, const OpOptions& options = {});

  /// Moves operations in flight forward without waiting.
  void progress() { communicator_->progress(); }
  /// Ends the group from any thread; see Communicator::abort.
  void abort(std::string_view cause) noexcept { communicator_->abort(cause); }
  /// See Communicator::end.
  void end(std::string_view cause) noexcept { communicator_->end(cause); }

 private:
  std::shared_ptr<Communicator> communicator_;
  RankEnvironment environment_;
  std::shared_ptr<Store> store_;
};

/// Joins the job that the launcher's environment describes (torchrun's names, Open MPI, MPICH, Slurm; else a world of
/// one) and returns its world group. Sets libtorch's number of threads to this rank's share of the host, where several
/// ranks are on it and OMP_NUM_THREADS is not set: a program that wants another one calls at::set_num_threads
/// afterwards. See init_from_environment for what it throws.
std::shared_ptr<ProcessGroup> init_process_group(const InitOptions& options = {});

}  // namespace lockstep
