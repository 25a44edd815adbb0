#pragma once
// Internal: never included from a public header.

#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>

namespace torch::autograd {
struct Node;
}

namespace lockstep::ddp {

/// The indices of some nodes.
using NodeIndex = std::unordered_map<const torch::autograd::Node*, std::size_t>;

/// Which of `nodes` a backward from `outputs` can reach, in ascending order of their indices.
/// Cost: one visit of each node of the graph.
std::vector<std::size_t> reached_nodes(const std::vector<at::Tensor>& outputs, const NodeIndex& nodes);

/// In which order the engine would run those of `nodes` that a backward from `outputs` reaches: it always takes, of the
/// nodes whose inputs are complete, the one that was made last in forward, and accumulation before all others. Pure:
/// the graph is walked, not run. An estimate where a loss depends on a part of the outputs only.
/// Source: torch/csrc/autograd/engine.h, CompareNodeTaskTime.
std::vector<std::size_t> predict_order(const std::vector<at::Tensor>& outputs, const NodeIndex& nodes);

}  // namespace lockstep::ddp
