#include "lockstep/parallel/group/process_group.h"

#include <utility>

#include <ATen/ATen.h>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/log.h"
#include "lockstep/parallel/group/dtype_map.h"
#include "lockstep/parallel/group/memory_policy.h"
#include "lockstep/parallel/group/thread_share.h"

namespace lockstep {
namespace {

std::string who(const Communicator& communicator, std::string_view function) {
  return base::cat("rank ", communicator.rank(), "/", communicator.world_size(), " group ", communicator.name(), ": ",
                   function);
}

/// Checks one argument and returns its dtype in core's table.
DType require_dense(const Communicator& communicator, std::string_view function, std::string_view argument,
                    const at::Tensor& tensor) {
  const auto refuse = [&](std::string_view expected) {
    throw UsageError(base::cat(who(communicator, function), ": ", argument, " is ", group::tensor_text(tensor),
                               "; expected ", expected));
  };
  if (!tensor.defined()) refuse("a tensor with memory");
  if (tensor.layout() != at::kStrided) refuse("a dense tensor: pass tensor.to_dense()");
  if (!tensor.device().is_cpu()) refuse("a tensor on the CPU: pass tensor.cpu()");
  if (!tensor.is_contiguous()) refuse("a contiguous tensor: pass tensor.contiguous()");
  const auto dtype = group::from_torch(tensor.scalar_type());
  if (!dtype)
    refuse("one of f32 f64 f16 bf16 i8 u8 i32 i64 bool: convert it, or pass at::view_as_real of a complex one");
  return *dtype;
}

/// `many` must hold world_size times as many elements of the same dtype as `one`.
void require_chunks(const Communicator& communicator, std::string_view function,
                    std::pair<std::string_view, const at::Tensor*> many,
                    std::pair<std::string_view, const at::Tensor*> one) {
  const std::int64_t expected = one.second->numel() * communicator.world_size();
  if (many.second->numel() == expected && many.second->scalar_type() == one.second->scalar_type()) return;
  throw UsageError(base::cat(who(communicator, function), ": ", many.first, " is ", group::tensor_text(*many.second),
                             " and ", one.first, " is ", group::tensor_text(*one.second), "; expected ", many.first,
                             " of ", expected, " elements (world_size * ", one.first, ".numel()) and ",
                             group::dtype_name(one.second->scalar_type())));
}

/// Tells autograd that the memory of `tensor` changes: a graph that saved it must notice.
void mark_written(const at::Tensor& tensor) {
  if (!tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
}

std::size_t count_of(const at::Tensor& tensor) { return static_cast<std::size_t>(tensor.numel()); }

}  // namespace

ProcessGroup::ProcessGroup(std::shared_ptr<Communicator> communicator, RankEnvironment environment,
                           std::shared_ptr<Store> store)
    : communicator_(std::move(communicator)), environment_(std::move(environment)), store_(std::move(store)) {
  LS_REQUIRE(communicator_ != nullptr, "ProcessGroup: communicator is null; make one with make_communicator()");
}

int ProcessGroup::rank() const noexcept { return communicator_->rank(); }
int ProcessGroup::world_size() const noexcept { return communicator_->world_size(); }

void ProcessGroup::barrier(const OpOptions& options) { communicator_->barrier(options); }

void ProcessGroup::all_reduce(at::Tensor& tensor, ReduceOp op, const OpOptions& options) {
  const DType dtype = require_dense(*communicator_, "all_reduce", "tensor", tensor);
  mark_written(tensor);
  communicator_->all_reduce(tensor.data_ptr(), tensor.data_ptr(), count_of(tensor), dtype, op, options);
}

void ProcessGroup::broadcast(at::Tensor& tensor, int root, const OpOptions& options) {
  const DType dtype = require_dense(*communicator_, "broadcast", "tensor", tensor);
  mark_written(tensor);
  communicator_->broadcast(tensor.data_ptr(), count_of(tensor), dtype, root, options);
}

void ProcessGroup::all_gather(at::Tensor& output, const at::Tensor& input, const OpOptions& options) {
  const DType dtype = require_dense(*communicator_, "all_gather", "input", input);
  require_dense(*communicator_, "all_gather", "output", output);
  require_chunks(*communicator_, "all_gather", {"output", &output}, {"input", &input});
  mark_written(output);
  communicator_->all_gather(input.data_ptr(), output.data_ptr(), count_of(input), dtype, options);
}

void ProcessGroup::reduce_scatter(at::Tensor& output, const at::Tensor& input, ReduceOp op, const OpOptions& options) {
  const DType dtype = require_dense(*communicator_, "reduce_scatter", "output", output);
  require_dense(*communicator_, "reduce_scatter", "input", input);
  require_chunks(*communicator_, "reduce_scatter", {"input", &input}, {"output", &output});
  mark_written(output);
  communicator_->reduce_scatter(input.data_ptr(), output.data_ptr(), count_of(output), dtype, op, options);
}

Work ProcessGroup::all_reduce_async(at::Tensor& tensor, ReduceOp op, const OpOptions& options) {
  const DType dtype = require_dense(*communicator_, "all_reduce_async", "tensor", tensor);
  mark_written(tensor);
  return communicator_->all_reduce_async(tensor.data_ptr(), tensor.data_ptr(), count_of(tensor), dtype, op, options);
}

Work ProcessGroup::broadcast_async(at::Tensor& tensor, int root, const OpOptions& options) {
  const DType dtype = require_dense(*communicator_, "broadcast_async", "tensor", tensor);
  mark_written(tensor);
  return communicator_->broadcast_async(tensor.data_ptr(), count_of(tensor), dtype, root, options);
}

Work ProcessGroup::all_gather_async(at::Tensor& output, const at::Tensor& input, const OpOptions& options) {
  const DType dtype = require_dense(*communicator_, "all_gather_async", "input", input);
  require_dense(*communicator_, "all_gather_async", "output", output);
  require_chunks(*communicator_, "all_gather_async", {"output", &output}, {"input", &input});
  mark_written(output);
  return communicator_->all_gather_async(input.data_ptr(), output.data_ptr(), count_of(input), dtype, options);
}

Work ProcessGroup::reduce_scatter_async(at::Tensor& output, const at::Tensor& input, ReduceOp op,
                                        const OpOptions& options) {
  const DType dtype = require_dense(*communicator_, "reduce_scatter_async", "output", output);
  require_dense(*communicator_, "reduce_scatter_async", "input", input);
  require_chunks(*communicator_, "reduce_scatter_async", {"input", &input}, {"output", &output});
  mark_written(output);
  return communicator_->reduce_scatter_async(input.data_ptr(), output.data_ptr(), count_of(output), dtype, op, options);
}

at::Tensor ProcessGroup::allocate(std::int64_t numel, DType dtype, const OpOptions& options) {
  LS_REQUIRE(numel >= 0, who(*communicator_, "allocate"), ": numel is ", numel, "; expected 0 or more");
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
