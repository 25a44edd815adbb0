#include "lockstep/parallel/group/arguments.h"

#include <functional>
#include <numeric>
#include <utility>

#include <ATen/ATen.h>

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/group/dtype_map.h"

namespace lockstep::group {
namespace {

/// A tensor and what the caller calls it.
struct Argument {
  std::string_view name;
  const at::Tensor& tensor;
};

std::size_t count_of(const at::Tensor& tensor) { return static_cast<std::size_t>(tensor.numel()); }

std::string text_of(const Argument& argument) { return base::cat(argument.name, " is ", tensor_text(argument.tensor)); }

void require_same_dtype(const Call& call, const Argument& a, const Argument& b) {
  LS_REQUIRE(a.tensor.scalar_type() == b.tensor.scalar_type(), who(call), ": ", text_of(a), " and ", text_of(b),
             "; expected the same dtype");
}

/// `many` must hold world_size times as many elements of the same dtype as `one`.
void require_chunks(const Call& call, const Argument& many, const Argument& one) {
  const std::int64_t expected = one.tensor.numel() * call.communicator.world_size();
  LS_REQUIRE(many.tensor.numel() == expected && many.tensor.scalar_type() == one.tensor.scalar_type(), who(call), ": ",
             text_of(many), " and ", text_of(one), "; expected ", many.name, " of ", expected,
             " elements (world_size * ", one.name, ".numel()) and ", dtype_name(one.tensor.scalar_type()));
}

std::int64_t sum(const Sizes& sizes) { return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}); }

/// `many` must hold the chunks of all ranks, and `one` this rank's.
std::vector<std::size_t> require_unequal_chunks(const Call& call, const Argument& many, const Argument& one,
                                                const Sizes& counts) {
  require_one_per_rank(call, "counts", counts);
  require_same_dtype(call, many, one);
  const int rank = call.communicator.rank();
  const std::int64_t mine = counts[static_cast<std::size_t>(rank)];
  LS_REQUIRE(one.tensor.numel() == mine, who(call), ": ", text_of(one), "; expected ", mine, " elements, counts[", rank,
             "] of ", shape_text(counts));
  LS_REQUIRE(many.tensor.numel() == sum(counts), who(call), ": ", text_of(many), "; expected ", sum(counts),
             " elements, the sum of counts ", shape_text(counts));
  return {counts.begin(), counts.end()};
}

std::int64_t row_numel(const at::Tensor& tensor) {
  const auto row = tensor.sizes().slice(1);
  return std::accumulate(row.begin(), row.end(), std::int64_t{1}, std::multiplies<>());
}

void require_rows(const Call& call, const Argument& argument) {
  LS_REQUIRE(argument.tensor.dim() > 0, who(call), ": ", text_of(argument),
             "; expected at least one dim, which is split over the ranks");
}

void require_equal_parts(const Call& call, const Argument& argument) {
  const int world_size = call.communicator.world_size();
  LS_REQUIRE(argument.tensor.size(0) % world_size == 0, who(call), ": ", text_of(argument), "; expected dim 0 to be a ",
             "multiple of world_size ", world_size, ": pass split sizes for unequal parts");
}

/// Elements of each rank's part of dim 0.
std::vector<std::size_t> parts_of(const Call& call, const Argument& argument, std::string_view name,
                                  const Sizes& split_sizes) {
  const auto row = static_cast<std::size_t>(row_numel(argument.tensor));
  const auto world_size = static_cast<std::size_t>(call.communicator.world_size());
  if (split_sizes.empty()) {
    require_equal_parts(call, argument);
    return std::vector<std::size_t>(world_size, static_cast<std::size_t>(argument.tensor.size(0)) / world_size * row);
  }
  require_one_per_rank(call, name, split_sizes);
  LS_REQUIRE(sum(split_sizes) == argument.tensor.size(0), who(call), ": ", text_of(argument), " and ", name, " is ",
             shape_text(split_sizes), "; expected sizes that add up to dim 0, ", argument.tensor.size(0));
  std::vector<std::size_t> counts;
  counts.reserve(world_size);
  for (const std::int64_t size : split_sizes) counts.push_back(static_cast<std::size_t>(size) * row);
  return counts;
}

/// Dense, of one dtype, with a dim 0 to split, and rows alike.
DType require_exchange(const Call& call, const Argument& output, const Argument& input) {
  const DType dtype = require_dense(call, input.name, input.tensor);
  require_dense(call, output.name, output.tensor);
  require_same_dtype(call, output, input);
  require_rows(call, output);
  require_rows(call, input);
  LS_REQUIRE(row_numel(output.tensor) == row_numel(input.tensor), who(call), ": ", text_of(output), " and ",
             text_of(input), "; expected rows (dims 1 on) of the same number of elements");
  return dtype;
}

std::string indexed(std::string_view list, std::size_t i) {
  return std::string(list).append("[").append(std::to_string(i)).append("]");
}

/// Checks one list, and returns its dtype.
DType require_list(const Call& call, std::string_view name, const TensorList& tensors) {
  LS_REQUIRE(!tensors.empty(), who(call), ": ", name, " is empty; expected at least one tensor");
  const DType dtype = require_dense(call, indexed(name, 0), tensors[0]);
  for (std::size_t i = 1; i < tensors.size(); ++i) {
    LS_REQUIRE(require_dense(call, indexed(name, i), tensors[i]) == dtype, who(call), ": ", name, "[", i, "] is ",
               tensor_text(tensors[i]), " and ", name, "[0] is ", tensor_text(tensors[0]),
               "; expected one dtype: make one call for each");
  }
  return dtype;
}

DType require_lists(const Call& call, const TensorList& outputs, const TensorList& inputs) {
  const DType dtype = require_list(call, "inputs", inputs);
  require_list(call, "outputs", outputs);
  LS_REQUIRE(outputs.size() == inputs.size(), who(call), ": ", outputs.size(), " outputs and ", inputs.size(),
             " inputs; expected as many of each");
  return dtype;
}

}  // namespace

std::string who(const Call& call) {
  const Communicator& communicator = call.communicator;
  return base::cat("rank ", communicator.rank(), "/", communicator.world_size(), " group ", communicator.name(), ": ",
                   call.function);
}

DType require_carried(const Call& call, std::string_view argument, const at::Tensor& tensor) {
  const auto refuse = [&](std::string_view expected) {
    throw UsageError(base::cat(who(call), ": ", argument, " is ", tensor_text(tensor), "; expected ", expected));
  };
  if (!tensor.defined()) refuse("a tensor with memory");
  if (tensor.layout() != at::kStrided) refuse("a dense tensor: pass tensor.to_dense()");
  if (!tensor.device().is_cpu()) refuse("a tensor on the CPU: pass tensor.cpu()");
  const auto dtype = from_torch(tensor.scalar_type());
  if (!dtype)
    refuse("one of f32 f64 f16 bf16 i8 u8 i32 i64 bool: convert it, or pass at::view_as_real of a complex one");
  return *dtype;
}

DType require_dense(const Call& call, std::string_view argument, const at::Tensor& tensor) {
  const DType dtype = require_carried(call, argument, tensor);
  LS_REQUIRE(tensor.is_contiguous(), who(call), ": ", argument, " is ", tensor_text(tensor),
             "; expected a contiguous tensor: pass tensor.contiguous()");
  return dtype;
}

void require_one_per_rank(const Call& call, std::string_view name, const Sizes& sizes) {
  const int world_size = call.communicator.world_size();
  LS_REQUIRE(sizes.size() == static_cast<std::size_t>(world_size), who(call), ": ", name, " is ", shape_text(sizes),
             "; expected ", world_size, " sizes, one a rank");
  for (const std::int64_t size : sizes) {
    LS_REQUIRE(size >= 0, who(call), ": ", name, " is ", shape_text(sizes), "; expected sizes of 0 or more");
  }
}

void mark_written(const at::Tensor& tensor) {
  if (!tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
}

// ---- one tensor ----

Buffers take_sent(const Call& call, const at::Tensor& tensor) {
  const DType dtype = require_dense(call, "tensor", tensor);
  return {tensor.data_ptr(), tensor.data_ptr(), count_of(tensor), dtype};
}

Buffers take_tensor(const Call& call, const at::Tensor& tensor) {
  const Buffers buffers = take_sent(call, tensor);
  mark_written(tensor);
  return buffers;
}

Buffers take_reduced(const Call& call, const at::Tensor& tensor, int root) {
  if (call.communicator.rank() == root) return take_tensor(call, tensor);
  Buffers buffers = take_sent(call, tensor);
  buffers.output = nullptr;
  return buffers;
}

// ---- output and input ----

Buffers take_gathered(const Call& call, const at::Tensor& output, const at::Tensor& input) {
  const DType dtype = require_dense(call, "input", input);
  require_dense(call, "output", output);
  require_chunks(call, {"output", output}, {"input", input});
  mark_written(output);
  return {input.data_ptr(), output.data_ptr(), count_of(input), dtype};
}

UnequalBuffers take_gathered(const Call& call, const at::Tensor& output, const at::Tensor& input, const Sizes& counts) {
  const DType dtype = require_dense(call, "input", input);
  require_dense(call, "output", output);
  auto sizes = require_unequal_chunks(call, {"output", output}, {"input", input}, counts);
  mark_written(output);
  return {{input.data_ptr(), output.data_ptr(), count_of(output), dtype}, std::move(sizes), {}};
}

Buffers take_gathered(const Call& call, const at::Tensor& output, const at::Tensor& input, int root) {
  if (call.communicator.rank() == root) return take_gathered(call, output, input);
  const DType dtype = require_dense(call, "input", input);
  return {input.data_ptr(), nullptr, count_of(input), dtype};
}

Buffers take_scattered(const Call& call, const at::Tensor& output, const at::Tensor& input) {
  const DType dtype = require_dense(call, "output", output);
  require_dense(call, "input", input);
  require_chunks(call, {"input", input}, {"output", output});
  mark_written(output);
  return {input.data_ptr(), output.data_ptr(), count_of(output), dtype};
}

UnequalBuffers take_scattered(const Call& call, const at::Tensor& output, const at::Tensor& input,
                              const Sizes& counts) {
  const DType dtype = require_dense(call, "output", output);
  require_dense(call, "input", input);
  auto sizes = require_unequal_chunks(call, {"input", input}, {"output", output}, counts);
  mark_written(output);
  return {{input.data_ptr(), output.data_ptr(), count_of(input), dtype}, std::move(sizes), {}};
}

Buffers take_scattered(const Call& call, const at::Tensor& output, const at::Tensor& input, int root) {
  if (call.communicator.rank() == root) return take_scattered(call, output, input);
  const DType dtype = require_dense(call, "output", output);
  mark_written(output);
  return {nullptr, output.data_ptr(), count_of(output), dtype};
}

Buffers take_exchanged(const Call& call, const at::Tensor& output, const at::Tensor& input) {
  const DType dtype = require_exchange(call, {"output", output}, {"input", input});
  require_equal_parts(call, {"input", input});
  LS_REQUIRE(output.numel() == input.numel(), who(call), ": ", text_of({"output", output}), " and ",
             text_of({"input", input}), "; expected as many elements in both: pass split sizes for unequal parts");
  mark_written(output);
  const auto world_size = static_cast<std::size_t>(call.communicator.world_size());
  return {input.data_ptr(), output.data_ptr(), count_of(input) / world_size, dtype};
}

UnequalBuffers take_exchanged(const Call& call, const at::Tensor& output, const at::Tensor& input,
                              const Sizes& output_split_sizes, const Sizes& input_split_sizes) {
  const DType dtype = require_exchange(call, {"output", output}, {"input", input});
  auto sent = parts_of(call, {"input", input}, "input_split_sizes", input_split_sizes);
  auto received = parts_of(call, {"output", output}, "output_split_sizes", output_split_sizes);
  mark_written(output);
  return {{input.data_ptr(), output.data_ptr(), count_of(input), dtype}, std::move(sent), std::move(received)};
}

// ---- lists ----

BufferList take_tensors(const Call& call, const TensorList& tensors) {
  BufferList list{{}, require_list(call, "tensors", tensors)};
  list.buffers.reserve(tensors.size());
  for (const at::Tensor& tensor : tensors) {
    mark_written(tensor);
    list.buffers.push_back({tensor.data_ptr(), tensor.data_ptr(), count_of(tensor)});
  }
  return list;
}

BufferList take_gathered(const Call& call, const TensorList& outputs, const TensorList& inputs) {
  BufferList list{{}, require_lists(call, outputs, inputs)};
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    require_chunks(call, {indexed("outputs", i), outputs[i]}, {indexed("inputs", i), inputs[i]});
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    mark_written(outputs[i]);
    list.buffers.push_back({inputs[i].data_ptr(), outputs[i].data_ptr(), count_of(inputs[i])});
  }
  return list;
}

BufferList take_scattered(const Call& call, const TensorList& outputs, const TensorList& inputs) {
  BufferList list{{}, require_lists(call, outputs, inputs)};
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    require_chunks(call, {indexed("inputs", i), inputs[i]}, {indexed("outputs", i), outputs[i]});
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    mark_written(outputs[i]);
    list.buffers.push_back({inputs[i].data_ptr(), outputs[i].data_ptr(), count_of(outputs[i])});
  }
  return list;
}

}  // namespace lockstep::group
