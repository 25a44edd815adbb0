#pragma once
// Parts of a module that backward computes again, in the two ways in which their gradients can reach parameters.

#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep::support {

using TensorFunction = std::function<at::Tensor(const at::Tensor&)>;

/// function(x). `parameters` are inputs of its node, and get their gradients like those of any other.
at::Tensor recomputed(const TensorFunction& function, const at::Tensor& x, const std::vector<at::Tensor>& parameters);

/// function(x). Its node runs a whole backward, which accumulates the gradients of what `function` uses: inside of the
/// outer backward, and once for each such node. torch.utils.checkpoint with use_reentrant=True.
at::Tensor recomputed_reentrant(const TensorFunction& function, const at::Tensor& x);

}  // namespace lockstep::support
