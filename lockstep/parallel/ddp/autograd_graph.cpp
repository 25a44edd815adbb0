#include "lockstep/parallel/ddp/autograd_graph.h"

#include <algorithm>
#include <memory>
#include <queue>

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

namespace lockstep::ddp {
namespace {

using torch::autograd::Node;

/// Nodes that `outputs` come from, each once. Owned: the node of a leaf may be made here, and live as long as this.
std::vector<std::shared_ptr<Node>> roots_of(const std::vector<at::Tensor>& outputs) {
  std::vector<std::shared_ptr<Node>> roots;
  for (const at::Tensor& output : outputs) {
    if (!output.requires_grad()) continue;
    const auto root = torch::autograd::impl::gradient_edge(output).function;
    if (std::ranges::find(roots, root) == roots.end()) roots.push_back(root);
  }
  return roots;
}

/// All nodes below `roots`, with the number of edges that lead to each.
std::unordered_map<Node*, int> count_edges(const std::vector<std::shared_ptr<Node>>& roots) {
  std::unordered_map<Node*, int> edges;
  std::vector<Node*> stack;
  for (const auto& root : roots) {
    if (edges.try_emplace(root.get(), 0).second) stack.push_back(root.get());
  }
  while (!stack.empty()) {
    const Node* const node = stack.back();
    stack.pop_back();
    for (const auto& edge : node->next_edges()) {
      if (!edge.is_valid()) continue;
      const auto [found, added] = edges.try_emplace(edge.function.get(), 0);
      ++found->second;
      if (added) stack.push_back(edge.function.get());
    }
  }
  return edges;
}

struct MadeEarlier {
  bool operator()(const Node* a, const Node* b) const { return a->sequence_nr() < b->sequence_nr(); }
};

}  // namespace

std::vector<std::size_t> reached_nodes(const std::vector<at::Tensor>& outputs, const NodeIndex& nodes) {
  std::vector<std::size_t> reached;
  const auto roots = roots_of(outputs);
  for (const auto& [node, edges] : count_edges(roots)) {
    const auto found = nodes.find(node);
    if (found != nodes.end()) reached.push_back(found->second);
  }
  std::ranges::sort(reached);
  return reached;
}

std::vector<std::size_t> predict_order(const std::vector<at::Tensor>& outputs, const NodeIndex& nodes) {
  const auto roots = roots_of(outputs);
  auto missing = count_edges(roots);
  std::priority_queue<Node*, std::vector<Node*>, MadeEarlier> ready;
  for (const auto& root : roots) {
    if (missing[root.get()] == 0) ready.push(root.get());
  }
  std::vector<std::size_t> order;
  while (!ready.empty()) {
    Node* const node = ready.top();
    ready.pop();
    const auto found = nodes.find(node);
    if (found != nodes.end()) order.push_back(found->second);
    for (const auto& edge : node->next_edges()) {
      if (edge.is_valid() && --missing[edge.function.get()] == 0) ready.push(edge.function.get());
    }
  }
  return order;
}

}  // namespace lockstep::ddp
