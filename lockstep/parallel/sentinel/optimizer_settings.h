#pragma once
// Internal: never included from a public header.

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace torch::optim {
class Optimizer;
}

namespace lockstep::sentinel {

using NamedParameters = std::vector<std::pair<std::string, at::Tensor>>;
using Optimizers = std::vector<const torch::optim::Optimizer*>;

/// One line a setting, "SGD group 0: lr\t0.1": kind, group and name of the setting, then its value; the parameters of a
/// group by their names. Optimizers of libtorch are written out; of others the type, and the learning rate where it
/// tells one. Equal settings have equal texts, to the last bit of each number.
std::string describe(const Optimizers& optimizers, const NamedParameters& parameters);

/// How `mine` of `rank` first differs from rank 0's, for people: "SGD group 0: lr is 0.1 on rank 0 but 0.01 on rank 1".
/// Empty where it does not.
std::string first_difference(std::string_view reference, std::string_view mine, int rank);

/// Indices of parameters with a gradient that no optimizer holds.
std::vector<std::size_t> left_out(const Optimizers& optimizers, const NamedParameters& parameters);

}  // namespace lockstep::sentinel
