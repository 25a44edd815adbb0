// One custom node stands for the whole function; its inputs are the function's inputs and the parameters. Its backward
// runs the function on detached inputs, differentiates that graph with respect to the detached inputs and to the
// parameters themselves (which fills no .grad and calls no accumulator), and returns what came out: the outer backward
// accumulates it like any other gradient.
//
// Autocast's cache is off in both runs. In the first, the cast of a weight would be cached without its history, since
// gradient mode is off, and a later use outside would lose the weight's gradient; in the second it would keep a graph
// that is freed.
#include "lockstep/parallel/nn/activation_checkpoint.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <memory>
#include <mutex>
#include <unordered_set>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/SequenceNumber.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/variable.h>

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/group/dtype_map.h"
#include "lockstep/parallel/group/torch_compat.h"

namespace lockstep {
namespace {

using group::AutocastState;
using torch::autograd::AutogradContext;
using torch::autograd::Node;
using torch::autograd::variable_list;

constexpr std::array kAutocastDevices = {c10::DeviceType::CPU, c10::DeviceType::CUDA};
using AutocastStates = std::array<AutocastState, kAutocastDevices.size()>;

AutocastStates get_autocast() {
  AutocastStates states;
  for (std::size_t i = 0; i < states.size(); ++i) states[i] = group::get_autocast(kAutocastDevices[i]);
  return states;
}

void set_autocast(const AutocastStates& states) {
  for (std::size_t i = 0; i < states.size(); ++i) group::set_autocast(kAutocastDevices[i], states[i]);
}

/// The given autocast without a cache, while it lives.
class AutocastGuard {
 public:
  explicit AutocastGuard(AutocastStates states) : before_(get_autocast()) {
    for (AutocastState& state : states) state.cache = false;
    set_autocast(states);
  }
  ~AutocastGuard() { set_autocast(before_); }
  AutocastGuard(const AutocastGuard&) = delete;
  AutocastGuard& operator=(const AutocastGuard&) = delete;

 private:
  AutocastStates before_;
};

at::Tensor rng_state() {
  at::Generator generator = at::globalContext().defaultGenerator(at::Device(at::kCPU));
  const std::lock_guard lock(generator.mutex());
  return generator.get_state();
}

void set_rng_state(const at::Tensor& state) {
  at::Generator generator = at::globalContext().defaultGenerator(at::Device(at::kCPU));
  const std::lock_guard lock(generator.mutex());
  generator.set_state(state);
}

/// The generator continues from `state` (undefined: from where it is) and is put back afterwards.
class RngGuard {
 public:
  explicit RngGuard(const at::Tensor& state) {
    if (!state.defined()) return;
    before_ = rng_state();
    set_rng_state(state);
  }
  ~RngGuard() {
    if (before_.defined()) set_rng_state(before_);
  }
  RngGuard(const RngGuard&) = delete;
  RngGuard& operator=(const RngGuard&) = delete;

 private:
  at::Tensor before_;
};

/// Puts the values back. Not through the tensors themselves: graphs that saved them are still right about the values.
class BufferGuard {
 public:
  explicit BufferGuard(const std::vector<at::Tensor>& buffers) {
    for (const at::Tensor& buffer : buffers) {
      if (buffer.defined()) saved_.emplace_back(buffer.variable_data(), buffer.detach().clone());
    }
  }
  ~BufferGuard() {
    const at::NoGradGuard no_grad;
    for (auto& [buffer, value] : saved_) buffer.copy_(value);
  }
  BufferGuard(const BufferGuard&) = delete;
  BufferGuard& operator=(const BufferGuard&) = delete;

 private:
  std::vector<std::pair<at::Tensor, at::Tensor>> saved_;
};

/// What one call needs to be repeated.
struct Call final : torch::CustomClassHolder {
  CheckpointedFunction function;
  std::vector<at::Tensor> buffers;
  std::size_t inputs = 0;  ///< number; parameters follow them among the saved tensors
  AutocastStates autocast;
  at::Tensor rng;
  std::vector<std::vector<std::int64_t>> shapes;  ///< of the outputs
};

/// Every path from `outputs` ends at a node of `known`; those that were made since `first` lie between.
void require_known_sources(const variable_list& outputs, const std::unordered_set<const Node*>& known,
                           std::uint64_t first) {
  std::unordered_set<const Node*> seen = known;
  std::vector<const Node*> open;
  const auto visit = [&](const Node* node) {
    if (node != nullptr && seen.insert(node).second) open.push_back(node);
  };
  std::vector<std::shared_ptr<Node>> roots;  // The node of a leaf may be made here.
  for (const at::Tensor& output : outputs) {
    roots.push_back(torch::autograd::impl::gradient_edge(output).function);
    visit(roots.back().get());
  }
  while (!open.empty()) {
    const Node* const node = open.back();
    open.pop_back();
    const auto* const leaf = dynamic_cast<const torch::autograd::AccumulateGrad*>(node);
    LS_REQUIRE(leaf == nullptr, "activation_checkpoint: the function uses a parameter, ",
               group::tensor_text(leaf->variable),
               ", that needs a gradient and is neither among inputs nor parameters: its gradient would be lost");
    LS_REQUIRE(node->sequence_nr() >= first, "activation_checkpoint: the function uses the result of ", node->name(),
               " from outside, which needs a gradient and is not among inputs: its gradient would be lost");
    for (const auto& edge : node->next_edges()) visit(edge.function.get());
  }
}

bool needs_gradient(const at::Tensor& tensor) { return tensor.defined() && tensor.requires_grad(); }

class Recompute : public torch::autograd::Function<Recompute> {
 public:
  /// `sources`: inputs, then parameters, that need a gradient. Autograd looks for tensors in an at::TensorList, and not
  /// in a vector: the node has these as inputs and no others.
  static variable_list forward(AutogradContext* context, const c10::intrusive_ptr<Call>& call,
                               const variable_list& inputs, at::TensorList sources) {
    variable_list saved = inputs;
    saved.insert(saved.end(), sources.begin() + std::count_if(inputs.begin(), inputs.end(), needs_gradient),
                 sources.end());
    context->save_for_backward(saved);
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    context->set_materialize_grads(false);
    const AutocastGuard autocast(call->autocast);
    variable_list outputs = call->function(inputs);
    for (at::Tensor& output : outputs) {
      call->shapes.push_back(output.sizes().vec());
      // Somebody else's, an input perhaps: the node's history must not be written into it.
      if (output.use_count() > 1) output = output.detach();
    }
    return outputs;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    LS_REQUIRE(!at::GradMode::is_enabled(),
               "activation_checkpoint: backward with create_graph; gradients of gradients ",
               "do not go through a recomputation");
    const auto call = c10::static_intrusive_pointer_cast<Call>(context->saved_data["call"].toCapsule());
    variable_list tensors = context->get_saved_variables();
    for (std::size_t i = 0; i < call->inputs; ++i) {
      if (tensors[i].defined()) tensors[i] = tensors[i].detach().set_requires_grad(tensors[i].requires_grad());
    }
    variable_list sources;
    std::copy_if(tensors.begin(), tensors.end(), std::back_inserter(sources), needs_gradient);
    tensors.resize(call->inputs);
    variable_list result = differentiate(*call, tensors, sources, gradients);
    result.insert(result.begin(), 2, at::Tensor());
    return result;
  }

 private:
  /// Gradients of `sources`; undefined where there is none.
  static variable_list differentiate(const Call& call, const variable_list& inputs, const variable_list& sources,
                                     const variable_list& gradients) {
    const std::uint64_t first = at::sequence_number::peek();
    const variable_list outputs = run_again(call, inputs);
    variable_list ends;
    variable_list of_ends;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (!gradients[i].defined() || !outputs[i].requires_grad()) continue;
      ends.push_back(outputs[i]);
      of_ends.push_back(gradients[i]);
    }
    if (ends.empty()) return variable_list(sources.size());
    std::unordered_set<const Node*> known;
    for (const at::Tensor& source : sources) {
      known.insert(torch::autograd::impl::gradient_edge(source).function.get());
    }
    require_known_sources(ends, known, first);
    return torch::autograd::grad(ends, sources, of_ends, /*retain_graph=*/false, /*create_graph=*/false,
                                 /*allow_unused=*/true);
  }

  static variable_list run_again(const Call& call, const variable_list& inputs) {
    const BufferGuard buffers(call.buffers);
    const RngGuard rng(call.rng);
    const AutocastGuard autocast(call.autocast);
    const at::AutoGradMode gradients(true);
    variable_list outputs = call.function(inputs);
    bool same = outputs.size() == call.shapes.size();
    for (std::size_t i = 0; same && i < outputs.size(); ++i) same = outputs[i].sizes() == call.shapes[i];
    LS_REQUIRE(same, "activation_checkpoint: the function returned other outputs in backward than in forward");
    return outputs;
  }
};

}  // namespace

std::vector<at::Tensor> activation_checkpoint_function(const CheckpointedFunction& function,
                                                       const std::vector<at::Tensor>& inputs,
                                                       const CheckpointOptions& options) {
  LS_REQUIRE(function != nullptr, "activation_checkpoint: function is null");
  variable_list sources;
  std::copy_if(inputs.begin(), inputs.end(), std::back_inserter(sources), needs_gradient);
  // Each once: parameters() lists a shared layer twice, and both entries would get all of its gradient.
  std::unordered_set<const void*> seen;
  std::copy_if(
      options.parameters.begin(), options.parameters.end(), std::back_inserter(sources),
      [&](const auto& each) { return needs_gradient(each) && seen.insert(each.unsafeGetTensorImpl()).second; });
  if (sources.empty() || !at::GradMode::is_enabled()) return function(inputs);

  const auto call = c10::make_intrusive<Call>();
  call->function = function;
  call->buffers = options.buffers;
  call->inputs = inputs.size();
  call->autocast = get_autocast();
  if (options.preserve_rng_state) call->rng = rng_state();
  return Recompute::apply(call, inputs, at::TensorList(sources));
}

}  // namespace lockstep
