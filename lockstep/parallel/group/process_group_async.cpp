// The forms of ProcessGroup that start an operation and return its Work.
#include "lockstep/parallel/group/arguments.h"
#include "lockstep/parallel/group/process_group.h"
#include "lockstep/parallel/group/watched_memory.h"

namespace lockstep {

using group::BufferList;
using group::Buffers;
using group::UnequalBuffers;

Work ProcessGroup::barrier_async(const OpOptions& options) { return communicator_->barrier_async(options); }

Work ProcessGroup::all_reduce_async(at::Tensor& tensor, Reduction op, const OpOptions& options) {
  const group::Call call{*communicator_, "all_reduce_async"};
  const Buffers b = group::take_tensor(call, tensor);
  group::announce_reduction(call, tensor, op);
  return communicator_->all_reduce_async(b.input, b.output, b.count, b.dtype, op, options);
}

Work ProcessGroup::reduce_async(at::Tensor& tensor, int root, Reduction op, const OpOptions& options) {
  const group::Call call{*communicator_, "reduce_async"};
  const Buffers b = group::take_reduced(call, tensor, root);
  group::announce_reduction(call, tensor, op);
  return communicator_->reduce_async(b.input, b.output, b.count, b.dtype, root, op, options);
}

Work ProcessGroup::broadcast_async(at::Tensor& tensor, int root, const OpOptions& options) {
  const Buffers b = group::take_tensor({*communicator_, "broadcast_async"}, tensor);
  return communicator_->broadcast_async(b.output, b.count, b.dtype, root, options);
}

Work ProcessGroup::all_gather_async(at::Tensor& output, const at::Tensor& input, const OpOptions& options) {
  const Buffers b = group::take_gathered({*communicator_, "all_gather_async"}, output, input);
  return communicator_->all_gather_async(b.input, b.output, b.count, b.dtype, options);
}

Work ProcessGroup::all_gather_async(at::Tensor& output, const at::Tensor& input, const Sizes& counts,
                                    const OpOptions& options) {
  const UnequalBuffers b = group::take_gathered({*communicator_, "all_gather_async"}, output, input, counts);
  return communicator_->all_gather_async(b.input, b.output, b.counts, b.dtype, options);
}

Work ProcessGroup::gather_async(at::Tensor& output, const at::Tensor& input, int root, const OpOptions& options) {
  const Buffers b = group::take_gathered({*communicator_, "gather_async"}, output, input, root);
  return communicator_->gather_async(b.input, b.output, b.count, b.dtype, root, options);
}

Work ProcessGroup::reduce_scatter_async(at::Tensor& output, const at::Tensor& input, Reduction op,
                                        const OpOptions& options) {
  const Buffers b = group::take_scattered({*communicator_, "reduce_scatter_async"}, output, input);
  return communicator_->reduce_scatter_async(b.input, b.output, b.count, b.dtype, op, options);
}

Work ProcessGroup::reduce_scatter_async(at::Tensor& output, const at::Tensor& input, const Sizes& counts, Reduction op,
                                        const OpOptions& options) {
  const UnequalBuffers b = group::take_scattered({*communicator_, "reduce_scatter_async"}, output, input, counts);
  return communicator_->reduce_scatter_async(b.input, b.output, b.counts, b.dtype, op, options);
}

Work ProcessGroup::scatter_async(at::Tensor& output, const at::Tensor& input, int root, const OpOptions& options) {
  const Buffers b = group::take_scattered({*communicator_, "scatter_async"}, output, input, root);
  return communicator_->scatter_async(b.input, b.output, b.count, b.dtype, root, options);
}

Work ProcessGroup::all_to_all_async(at::Tensor& output, const at::Tensor& input, const OpOptions& options) {
  const Buffers b = group::take_exchanged({*communicator_, "all_to_all_async"}, output, input);
  return communicator_->all_to_all_async(b.input, b.output, b.count, b.dtype, options);
}

Work ProcessGroup::all_to_all_async(at::Tensor& output, const at::Tensor& input, const Sizes& output_split_sizes,
                                    const Sizes& input_split_sizes, const OpOptions& options) {
  const UnequalBuffers b =
      group::take_exchanged({*communicator_, "all_to_all_async"}, output, input, output_split_sizes, input_split_sizes);
  return communicator_->all_to_all_async(b.input, b.counts, b.output, b.recv_counts, b.dtype, options);
}

Work ProcessGroup::send_async(const at::Tensor& tensor, int peer, int tag, const OpOptions& options) {
  const Buffers b = group::take_sent({*communicator_, "send_async"}, tensor);
  return communicator_->send_async(b.input, b.count, b.dtype, peer, tag, options);
}

Work ProcessGroup::recv_async(at::Tensor& tensor, int source, int tag, const OpOptions& options) {
  const Buffers b = group::take_tensor({*communicator_, "recv_async"}, tensor);
  return communicator_->recv_async(b.output, b.count, b.dtype, source, tag, options);
}

Work ProcessGroup::broadcast_coalesced_async(const std::vector<at::Tensor>& tensors, int root,
                                             const OpOptions& options) {
  const BufferList b = group::take_tensors({*communicator_, "broadcast_coalesced_async"}, tensors);
  return communicator_->broadcast_coalesced_async(b.buffers, b.dtype, root, options);
}

Work ProcessGroup::all_reduce_coalesced_async(const std::vector<at::Tensor>& tensors, Reduction op,
                                              const OpOptions& options) {
  const group::Call call{*communicator_, "all_reduce_coalesced_async"};
  const BufferList b = group::take_tensors(call, tensors);
  group::announce_reduction(call, tensors, op);
  return communicator_->all_reduce_coalesced_async(b.buffers, b.dtype, op, options);
}

Work ProcessGroup::all_gather_coalesced_async(const std::vector<at::Tensor>& outputs,
                                              const std::vector<at::Tensor>& inputs, const OpOptions& options) {
  const BufferList b = group::take_gathered({*communicator_, "all_gather_coalesced_async"}, outputs, inputs);
  return communicator_->all_gather_coalesced_async(b.buffers, b.dtype, options);
}

Work ProcessGroup::reduce_scatter_coalesced_async(const std::vector<at::Tensor>& outputs,
                                                  const std::vector<at::Tensor>& inputs, Reduction op,
                                                  const OpOptions& options) {
  const BufferList b = group::take_scattered({*communicator_, "reduce_scatter_coalesced_async"}, outputs, inputs);
  return communicator_->reduce_scatter_coalesced_async(b.buffers, b.dtype, op, options);
}

}  // namespace lockstep
