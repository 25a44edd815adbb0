#pragma once
// Internal: never included from a public header.
//
// What ProcessGroup does with its tensors before it calls the Communicator: checks them, tells autograd which of them
// change, and takes their memory. One function for each shape of arguments; all throw UsageError that names the call,
// the argument, what it is and what was expected.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "lockstep/core/comm/communicator.h"

namespace lockstep::group {

/// The call that the arguments are of, for messages.
struct Call {
  const Communicator& communicator;
  std::string_view function;
};

/// "rank 3/8 group dp: all_reduce".
std::string who(const Call& call);

/// As the Communicator's arguments of the same names.
struct Buffers {
  const void* input = nullptr;
  void* output = nullptr;
  std::size_t count = 0;
  DType dtype = DType::kFloat32;
};

struct UnequalBuffers : Buffers {
  std::vector<std::size_t> counts;       ///< of each rank; all_to_all: sent to each rank
  std::vector<std::size_t> recv_counts;  ///< all_to_all only
};

struct BufferList {
  std::vector<BufferPair> buffers;
  DType dtype = DType::kFloat32;
};

using Sizes = std::vector<std::int64_t>;

/// Requires memory of a layout, device and dtype that core carries, and returns the dtype.
DType require_carried(const Call& call, std::string_view argument, const at::Tensor& tensor);
/// The same, and contiguous: what core can be given.
DType require_dense(const Call& call, std::string_view argument, const at::Tensor& tensor);
/// One size of 0 or more for each rank.
void require_one_per_rank(const Call& call, std::string_view name, const Sizes& sizes);
/// Tells autograd that the memory of `tensor` changes: a graph that saved it must notice.
void mark_written(const at::Tensor& tensor);

/// One tensor, read and written.
Buffers take_tensor(const Call& call, const at::Tensor& tensor);
/// One tensor, read; written at `root`.
Buffers take_reduced(const Call& call, const at::Tensor& tensor, int root);
/// One tensor, only read: its memory is both input and output.
Buffers take_sent(const Call& call, const at::Tensor& tensor);

/// output has p times as many elements as input; count is input's.
Buffers take_gathered(const Call& call, const at::Tensor& output, const at::Tensor& input);
UnequalBuffers take_gathered(const Call& call, const at::Tensor& output, const at::Tensor& input, const Sizes& counts);
/// The same at `root`; elsewhere output is null.
Buffers take_gathered(const Call& call, const at::Tensor& output, const at::Tensor& input, int root);

/// input has p times as many elements as output; count is output's.
Buffers take_scattered(const Call& call, const at::Tensor& output, const at::Tensor& input);
UnequalBuffers take_scattered(const Call& call, const at::Tensor& output, const at::Tensor& input, const Sizes& counts);
/// The same at `root`; elsewhere input is null.
Buffers take_scattered(const Call& call, const at::Tensor& output, const at::Tensor& input, int root);

/// Dim 0 of both in p equal parts; count is one part's.
Buffers take_exchanged(const Call& call, const at::Tensor& output, const at::Tensor& input);
/// Dim 0 in parts of these sizes; an empty list is equal parts.
UnequalBuffers take_exchanged(const Call& call, const at::Tensor& output, const at::Tensor& input,
                              const Sizes& output_split_sizes, const Sizes& input_split_sizes);

using TensorList = std::vector<at::Tensor>;
BufferList take_tensors(const Call& call, const TensorList& tensors);
BufferList take_gathered(const Call& call, const TensorList& outputs, const TensorList& inputs);
BufferList take_scattered(const Call& call, const TensorList& outputs, const TensorList& inputs);

}  // namespace lockstep::group
