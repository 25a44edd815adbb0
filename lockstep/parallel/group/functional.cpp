// Each function is a linear map over the tensors of all ranks taken together, so its backward is the transposed map,
// and that is again one of these functions: that they are differentiable themselves gives gradients of gradients.
//
// The maps work on flat memory. Gathering along another dim than the first is a gather of the contiguous tensors and a
// concatenation of the pieces, both of which autograd sees.
#include "lockstep/parallel/group/functional.h"

#include <functional>
#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/group/arguments.h"
#include "lockstep/parallel/group/dtype_map.h"

namespace lockstep::functional {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Map = std::function<at::Tensor(const at::Tensor&)>;

constexpr std::string_view kBackward = "gradient";  // In messages: the operation is backward's.

struct Transposed final : torch::CustomClassHolder {
  explicit Transposed(Map which) : map(std::move(which)) {}
  Map map;
};

/// Applies `map`, and in backward `transposed`. Where a rank's result did not contribute to its loss, autograd passes
/// zeros, so that backward is collective all the same.
class LinearMap : public torch::autograd::Function<LinearMap> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const Map& map, const Map& transposed) {
    context->saved_data["transposed"] = c10::IValue::make_capsule(c10::make_intrusive<Transposed>(transposed));
    return map(input.contiguous());
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto capsule = context->saved_data["transposed"].toCapsule();
    const auto transposed = c10::static_intrusive_pointer_cast<Transposed>(capsule);
    return {transposed->map(gradients[0]), at::Tensor(), at::Tensor()};
  }
};

group::Call require_input(const Group& group, std::string_view function, const at::Tensor& input) {
  LS_REQUIRE(group != nullptr, function, ": group is null");
  const group::Call call{group->communicator(), function};
  group::require_carried(call, "input", input);
  return call;
}

std::int64_t sum(const Sizes& sizes) { return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}); }

/// d output / d input of the calling rank; `op` must be linear.
double factor_of(const Group& group, std::string_view function, Reduction op) {
  switch (op.op) {
    case ReduceOp::kSum: return 1;
    case ReduceOp::kAvg: return 1.0 / group->world_size();
    case ReduceOp::kPreMulSum: return op.factor;
    default:
      throw UsageError(base::cat(group::who({group->communicator(), function}), ": no gradient is defined for ",
                                 name_of(op.op), "; expected sum, avg or premul_sum: use ProcessGroup's ", function,
                                 " where none is needed"));
  }
}

at::Tensor scaled(const at::Tensor& tensor, double factor) { return factor == 1 ? tensor : tensor * factor; }

// ---- the maps: flat memory in, new memory out ----

at::Tensor map_all_reduce(const at::Tensor& input, const Group& group, Reduction op, std::string_view label) {
  const DType dtype = group::require_dense({group->communicator(), "all_reduce"}, "input", input);
  at::Tensor output = at::empty_like(input);
  group->communicator().all_reduce(input.data_ptr(), output.data_ptr(), static_cast<std::size_t>(input.numel()), dtype,
                                   op, {.timeout = {}, .label = label});
  return output;
}

at::Tensor map_broadcast(const at::Tensor& input, const Group& group, int root, std::string_view label) {
  at::Tensor output = group->rank() == root ? input.clone() : at::empty_like(input);
  group->broadcast(output, root, {.timeout = {}, .label = label});
  return output;
}

at::Tensor map_reduce(const at::Tensor& input, const Group& group, int root, Reduction op, std::string_view label) {
  at::Tensor output = input.clone();
  group->reduce(output, root, op, {.timeout = {}, .label = label});
  return group->rank() == root ? output : output.zero_();
}

at::Tensor map_all_gather(const at::Tensor& input, const Group& group, const Sizes& counts, std::string_view label) {
  const std::int64_t numel = counts.empty() ? input.numel() * group->world_size() : sum(counts);
  at::Tensor output = at::empty({numel}, input.options());
  const OpOptions options{.timeout = {}, .label = label};
  counts.empty() ? group->all_gather(output, input, options) : group->all_gather(output, input, counts, options);
  return output;
}

at::Tensor map_reduce_scatter(const at::Tensor& input, const Group& group, const Sizes& counts, Reduction op,
                              std::string_view label) {
  const auto rank = static_cast<std::size_t>(group->rank());
  at::Tensor output = at::empty({counts.empty() ? input.numel() / group->world_size() : counts[rank]}, input.options());
  const OpOptions options{.timeout = {}, .label = label};
  counts.empty() ? group->reduce_scatter(output, input, op, options)
                 : group->reduce_scatter(output, input, counts, op, options);
  return output;
}

/// How dim 0 goes out and comes in; both empty: in equal parts.
struct Splits {
  Sizes output;
  Sizes input;
};

at::Tensor map_all_to_all(const at::Tensor& input, const Group& group, const Splits& splits, std::string_view label) {
  std::vector<std::int64_t> shape = input.sizes().vec();
  if (!splits.output.empty() && !shape.empty()) shape[0] = sum(splits.output);
  at::Tensor output = at::empty(shape, input.options());
  const OpOptions options{.timeout = {}, .label = label};
  splits.output.empty() ? group->all_to_all(output, input, options)
                        : group->all_to_all(output, input, splits.output, splits.input, options);
  return output;
}

// ---- each map with its transposed one ----

at::Tensor apply_reduce(const at::Tensor& input, const Group& group, int root, Reduction op, std::string_view label);
at::Tensor apply_reduce_scatter(const at::Tensor& input, const Group& group, const Sizes& counts, Reduction op,
                                std::string_view label);

at::Tensor apply_all_reduce(const at::Tensor& input, const Group& group, Reduction op, std::string_view label) {
  return LinearMap::apply(
      input, [=](const at::Tensor& x) { return map_all_reduce(x, group, op, label); },
      [=](const at::Tensor& gradient) {
        if (op.op != ReduceOp::kPreMulSum) return apply_all_reduce(gradient, group, op, kBackward);
        return apply_all_reduce(gradient, group, ReduceOp::kSum, kBackward) * op.factor;
      });
}

at::Tensor apply_broadcast(const at::Tensor& input, const Group& group, int root, std::string_view label) {
  return LinearMap::apply(
      input, [=](const at::Tensor& x) { return map_broadcast(x, group, root, label); },
      [=](const at::Tensor& gradient) { return apply_reduce(gradient, group, root, ReduceOp::kSum, kBackward); });
}

at::Tensor apply_reduce(const at::Tensor& input, const Group& group, int root, Reduction op, std::string_view label) {
  const double factor = factor_of(group, "reduce", op);
  return LinearMap::apply(
      input, [=](const at::Tensor& x) { return map_reduce(x, group, root, op, label); },
      [=](const at::Tensor& gradient) { return scaled(apply_broadcast(gradient, group, root, kBackward), factor); });
}

at::Tensor apply_all_gather(const at::Tensor& input, const Group& group, const Sizes& counts, std::string_view label) {
  return LinearMap::apply(
      input, [=](const at::Tensor& x) { return map_all_gather(x, group, counts, label); },
      [=](const at::Tensor& gradient) {
        return apply_reduce_scatter(gradient, group, counts, ReduceOp::kSum, kBackward);
      });
}

at::Tensor apply_reduce_scatter(const at::Tensor& input, const Group& group, const Sizes& counts, Reduction op,
                                std::string_view label) {
  const double factor = factor_of(group, "reduce_scatter", op);
  return LinearMap::apply(
      input, [=](const at::Tensor& x) { return map_reduce_scatter(x, group, counts, op, label); },
      [=](const at::Tensor& gradient) { return scaled(apply_all_gather(gradient, group, counts, kBackward), factor); });
}

at::Tensor apply_all_to_all(const at::Tensor& input, const Group& group, const Splits& splits, std::string_view label) {
  return LinearMap::apply(
      input, [=](const at::Tensor& x) { return map_all_to_all(x, group, splits, label); },
      [=](const at::Tensor& gradient) {
        return apply_all_to_all(gradient, group, {splits.input, splits.output}, kBackward);
      });
}

// ---- one dim in parts, one a rank ----

struct Parts {
  std::int64_t dim = 0;  // not negative
  Sizes sizes;           // along dim
  Sizes counts;          // elements
  bool equal = false;    // then counts need not be said

  const Sizes& unequal_counts() const {
    static const Sizes none;
    return equal ? none : counts;
  }
};

std::int64_t wrapped_dim(const group::Call& call, const at::Tensor& input, std::int64_t dim) {
  LS_REQUIRE(dim >= -input.dim() && dim < input.dim(), group::who(call), ": dim is ", dim, " and input is ",
             group::tensor_text(input), "; expected a dim from ", -input.dim(), " to ", input.dim() - 1);
  return dim < 0 ? dim + input.dim() : dim;
}

Parts parts_of(const at::Tensor& input, std::int64_t dim, Sizes sizes, bool equal) {
  std::int64_t rest = 1;
  for (std::int64_t i = 0; i < input.dim(); ++i) rest *= i == dim ? 1 : input.size(i);
  Parts parts{dim, std::move(sizes), {}, equal};
  for (const std::int64_t size : parts.sizes) parts.counts.push_back(size * rest);
  return parts;
}

at::Tensor gather_parts(const at::Tensor& input, const Group& group, const Parts& parts) {
  const at::Tensor flat = apply_all_gather(input.reshape({-1}), group, parts.unequal_counts(), {});
  const auto dim = static_cast<std::size_t>(parts.dim);
  std::vector<std::int64_t> shape = input.sizes().vec();
  if (dim == 0) {
    shape[0] = sum(parts.sizes);
    return flat.view(shape);
  }
  std::vector<at::Tensor> pieces = flat.split_with_sizes(parts.counts);
  for (std::size_t r = 0; r < pieces.size(); ++r) {
    shape[dim] = parts.sizes[r];
    pieces[r] = pieces[r].view(shape);
  }
  return at::cat(pieces, parts.dim);
}

at::Tensor scatter_parts(const at::Tensor& input, const Group& group, const Parts& parts, Reduction op) {
  at::Tensor flat = input.reshape({-1});
  if (parts.dim != 0) {
    std::vector<at::Tensor> pieces = input.split_with_sizes(parts.sizes, parts.dim);
    for (at::Tensor& piece : pieces) piece = piece.reshape({-1});
    flat = at::cat(pieces);
  }
  std::vector<std::int64_t> shape = input.sizes().vec();
  shape[static_cast<std::size_t>(parts.dim)] = parts.sizes[static_cast<std::size_t>(group->rank())];
  return apply_reduce_scatter(flat, group, parts.unequal_counts(), op, {}).view(shape);
}

}  // namespace

// ---- the functions ----

at::Tensor all_reduce(const at::Tensor& input, const Group& group, Reduction op) {
  require_input(group, "all_reduce", input);
  factor_of(group, "all_reduce", op);
  return apply_all_reduce(input, group, op, {});
}

at::Tensor reduce(const at::Tensor& input, const Group& group, int root, Reduction op) {
  require_input(group, "reduce", input);
  return apply_reduce(input, group, root, op, {});
}

at::Tensor broadcast(const at::Tensor& input, const Group& group, int root) {
  require_input(group, "broadcast", input);
  return apply_broadcast(input, group, root, {});
}

at::Tensor all_gather(const at::Tensor& input, const Group& group, std::int64_t dim) {
  const group::Call call = require_input(group, "all_gather", input);
  const at::Tensor tensor = input.dim() == 0 ? input.reshape({1}) : input;
  dim = wrapped_dim(call, tensor, dim);
  Sizes sizes(static_cast<std::size_t>(group->world_size()), tensor.size(dim));
  return gather_parts(tensor, group, parts_of(tensor, dim, std::move(sizes), true));
}

at::Tensor all_gather(const at::Tensor& input, const Group& group, const Sizes& sizes, std::int64_t dim) {
  const group::Call call = require_input(group, "all_gather", input);
  dim = wrapped_dim(call, input, dim);
  group::require_one_per_rank(call, "sizes", sizes);
  const std::int64_t mine = sizes[static_cast<std::size_t>(group->rank())];
  LS_REQUIRE(input.size(dim) == mine, group::who(call), ": input is ", group::tensor_text(input), "; expected size ",
             mine, " in dim ", dim, ", sizes[", group->rank(), "] of ", group::shape_text(sizes));
  return gather_parts(input, group, parts_of(input, dim, sizes, false));
}

at::Tensor reduce_scatter(const at::Tensor& input, const Group& group, Reduction op, std::int64_t dim) {
  const group::Call call = require_input(group, "reduce_scatter", input);
  dim = wrapped_dim(call, input, dim);
  const int world_size = group->world_size();
  LS_REQUIRE(input.size(dim) % world_size == 0, group::who(call), ": input is ", group::tensor_text(input),
             "; expected dim ", dim, " to be a multiple of world_size ", world_size, ": pass sizes for unequal parts");
  Sizes sizes(static_cast<std::size_t>(world_size), input.size(dim) / world_size);
  return scatter_parts(input, group, parts_of(input, dim, std::move(sizes), true), op);
}

at::Tensor reduce_scatter(const at::Tensor& input, const Group& group, const Sizes& sizes, Reduction op,
                          std::int64_t dim) {
  const group::Call call = require_input(group, "reduce_scatter", input);
  dim = wrapped_dim(call, input, dim);
  group::require_one_per_rank(call, "sizes", sizes);
  LS_REQUIRE(sum(sizes) == input.size(dim), group::who(call), ": input is ", group::tensor_text(input),
             " and sizes is ", group::shape_text(sizes), "; expected sizes that add up to dim ", dim, ", ",
             input.size(dim));
  return scatter_parts(input, group, parts_of(input, dim, sizes, false), op);
}

at::Tensor all_to_all(const at::Tensor& input, const Group& group) {
  require_input(group, "all_to_all", input);
  return apply_all_to_all(input, group, {}, {});
}

at::Tensor all_to_all(const at::Tensor& input, const Group& group, const Sizes& output_split_sizes,
                      const Sizes& input_split_sizes) {
  const group::Call call = require_input(group, "all_to_all", input);
  group::require_one_per_rank(call, "output_split_sizes", output_split_sizes);
  group::require_one_per_rank(call, "input_split_sizes", input_split_sizes);
  return apply_all_to_all(input, group, {output_split_sizes, input_split_sizes}, {});
}

}  // namespace lockstep::functional
