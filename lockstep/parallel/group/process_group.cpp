#include "lockstep/parallel/group/process_group.h"

#include <utility>

#include <ATen/ATen.h>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/log.h"
#include "lockstep/parallel/group/arguments.h"
#include "lockstep/parallel/group/dtype_map.h"
#include "lockstep/parallel/group/memory_policy.h"
#include "lockstep/parallel/group/thread_share.h"
#include "lockstep/parallel/group/watched_memory.h"

namespace lockstep {

using group::BufferList;
using group::Buffers;
using group::UnequalBuffers;

ProcessGroup::ProcessGroup(std::shared_ptr<Communicator> communicator, RankEnvironment environment,
                           std::shared_ptr<Store> store)
    : communicator_(std::move(communicator)), environment_(std::move(environment)), store_(std::move(store)) {
  LS_REQUIRE(communicator_ != nullptr, "ProcessGroup: communicator is null; make one with make_communicator()");
}

int ProcessGroup::rank() const noexcept { return communicator_->rank(); }
int ProcessGroup::world_size() const noexcept { return communicator_->world_size(); }
const std::string& ProcessGroup::name() const noexcept { return communicator_->name(); }

std::shared_ptr<ProcessGroup> ProcessGroup::new_group(const std::vector<int>& ranks, const SubgroupOptions& options) {
  return std::make_shared<ProcessGroup>(lockstep::new_group(*communicator_, ranks, options), environment_, store_);
}

std::shared_ptr<ProcessGroup> ProcessGroup::split(int color, int key, const SubgroupOptions& options) {
  auto communicator = lockstep::split(*communicator_, color, key, options);
  if (communicator == nullptr) return nullptr;
  return std::make_shared<ProcessGroup>(std::move(communicator), environment_, store_);
}

void ProcessGroup::barrier(const OpOptions& options) { communicator_->barrier(options); }

void ProcessGroup::all_reduce(at::Tensor& tensor, Reduction op, const OpOptions& options) {
  const group::Call call{*communicator_, "all_reduce"};
  const Buffers b = group::take_tensor(call, tensor);
  group::announce_reduction(call, tensor, op);
  communicator_->all_reduce(b.input, b.output, b.count, b.dtype, op, options);
}

void ProcessGroup::reduce(at::Tensor& tensor, int root, Reduction op, const OpOptions& options) {
  const group::Call call{*communicator_, "reduce"};
  const Buffers b = group::take_reduced(call, tensor, root);
  group::announce_reduction(call, tensor, op);
  communicator_->reduce(b.input, b.output, b.count, b.dtype, root, op, options);
}

void ProcessGroup::broadcast(at::Tensor& tensor, int root, const OpOptions& options) {
  const Buffers b = group::take_tensor({*communicator_, "broadcast"}, tensor);
  communicator_->broadcast(b.output, b.count, b.dtype, root, options);
}

void ProcessGroup::all_gather(at::Tensor& output, const at::Tensor& input, const OpOptions& options) {
  const Buffers b = group::take_gathered({*communicator_, "all_gather"}, output, input);
  communicator_->all_gather(b.input, b.output, b.count, b.dtype, options);
}

void ProcessGroup::all_gather(at::Tensor& output, const at::Tensor& input, const Sizes& counts,
                              const OpOptions& options) {
  const UnequalBuffers b = group::take_gathered({*communicator_, "all_gather"}, output, input, counts);
  communicator_->all_gather(b.input, b.output, b.counts, b.dtype, options);
}

void ProcessGroup::gather(at::Tensor& output, const at::Tensor& input, int root, const OpOptions& options) {
  const Buffers b = group::take_gathered({*communicator_, "gather"}, output, input, root);
  communicator_->gather(b.input, b.output, b.count, b.dtype, root, options);
}

void ProcessGroup::reduce_scatter(at::Tensor& output, const at::Tensor& input, Reduction op, const OpOptions& options) {
  const Buffers b = group::take_scattered({*communicator_, "reduce_scatter"}, output, input);
  communicator_->reduce_scatter(b.input, b.output, b.count, b.dtype, op, options);
}

void ProcessGroup::reduce_scatter(at::Tensor& output, const at::Tensor& input, const Sizes& counts, Reduction op,
                                  const OpOptions& options) {
  const UnequalBuffers b = group::take_scattered({*communicator_, "reduce_scatter"}, output, input, counts);
  communicator_->reduce_scatter(b.input, b.output, b.counts, b.dtype, op, options);
}

void ProcessGroup::scatter(at::Tensor& output, const at::Tensor& input, int root, const OpOptions& options) {
  const Buffers b = group::take_scattered({*communicator_, "scatter"}, output, input, root);
  communicator_->scatter(b.input, b.output, b.count, b.dtype, root, options);
}

void ProcessGroup::all_to_all(at::Tensor& output, const at::Tensor& input, const OpOptions& options) {
  const Buffers b = group::take_exchanged({*communicator_, "all_to_all"}, output, input);
  communicator_->all_to_all(b.input, b.output, b.count, b.dtype, options);
}

void ProcessGroup::all_to_all(at::Tensor& output, const at::Tensor& input, const Sizes& output_split_sizes,
                              const Sizes& input_split_sizes, const OpOptions& options) {
  const UnequalBuffers b =
      group::take_exchanged({*communicator_, "all_to_all"}, output, input, output_split_sizes, input_split_sizes);
  communicator_->all_to_all(b.input, b.counts, b.output, b.recv_counts, b.dtype, options);
}

void ProcessGroup::send(const at::Tensor& tensor, int peer, int tag, const OpOptions& options) {
  const Buffers b = group::take_sent({*communicator_, "send"}, tensor);
  communicator_->send(b.input, b.count, b.dtype, peer, tag, options);
}

int ProcessGroup::recv(at::Tensor& tensor, int source, int tag, const OpOptions& options) {
  const Buffers b = group::take_tensor({*communicator_, "recv"}, tensor);
  return communicator_->recv(b.output, b.count, b.dtype, source, tag, options);
}

void ProcessGroup::broadcast_coalesced(const std::vector<at::Tensor>& tensors, int root, const OpOptions& options) {
  const BufferList b = group::take_tensors({*communicator_, "broadcast_coalesced"}, tensors);
  communicator_->broadcast_coalesced(b.buffers, b.dtype, root, options);
}

void ProcessGroup::all_reduce_coalesced(const std::vector<at::Tensor>& tensors, Reduction op,
                                        const OpOptions& options) {
  const group::Call call{*communicator_, "all_reduce_coalesced"};
  const BufferList b = group::take_tensors(call, tensors);
  group::announce_reduction(call, tensors, op);
  communicator_->all_reduce_coalesced(b.buffers, b.dtype, op, options);
}

void ProcessGroup::all_gather_coalesced(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs,
                                        const OpOptions& options) {
  const BufferList b = group::take_gathered({*communicator_, "all_gather_coalesced"}, outputs, inputs);
  communicator_->all_gather_coalesced(b.buffers, b.dtype, options);
}

void ProcessGroup::reduce_scatter_coalesced(const std::vector<at::Tensor>& outputs,
                                            const std::vector<at::Tensor>& inputs, Reduction op,
                                            const OpOptions& options) {
  const BufferList b = group::take_scattered({*communicator_, "reduce_scatter_coalesced"}, outputs, inputs);
  communicator_->reduce_scatter_coalesced(b.buffers, b.dtype, op, options);
}

at::Tensor ProcessGroup::allocate(std::int64_t numel, DType dtype, const OpOptions& options) {
  LS_REQUIRE(numel >= 0, group::who({*communicator_, "allocate"}), ": numel is ", numel, "; expected 0 or more");
  BackendMemory memory = communicator_->allocate(static_cast<std::size_t>(numel) * size_of(dtype), options);
  const auto torch_options = at::TensorOptions().dtype(group::to_torch(dtype)).device(at::kCPU);
  return at::from_blob(
      memory.data, {numel}, [owner = std::move(memory.owner)](void*) {}, torch_options);
}

std::shared_ptr<ProcessGroup> init_process_group(const InitOptions& options) {
  keep_freed_memory();
  Job job = init_from_environment(options);
  base::set_log_identity(base::cat("rank ", job.communicator->rank(), "/", job.communicator->world_size()));
  group::share_threads(job.environment.local_world_size);
  return std::make_shared<ProcessGroup>(std::move(job.communicator), std::move(job.environment), std::move(job.store));
}

}  // namespace lockstep
