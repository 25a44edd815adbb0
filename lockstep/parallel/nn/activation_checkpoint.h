#pragma once

#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep {

/// Some tensors in, some out. Called in forward and once in each backward: it must do the same each time (random
/// numbers apart), must not change its inputs in place, and owns what it needs (a module's holder, not a reference).
using CheckpointedFunction = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& inputs)>;

/// What the function uses beside its inputs.
struct CheckpointOptions {
  std::vector<at::Tensor> parameters = {};  ///< all that need a gradient; others are welcome
  std::vector<at::Tensor> buffers = {};     ///< left by a recomputation as they were: running statistics count once
  bool preserve_rng_state = true;           ///< of the CPU's default generator: dropout repeats
};

/// function(inputs), of which nothing is kept but the inputs: backward calls `function` again and goes through that
/// graph (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"). Memory: the activations inside of
/// `function` exist for one such call at a time. Cost: a second forward of it.
///
/// Gradients are those without it, bit for bit. Inputs and parameters are inputs of one node of the graph, so that each
/// parameter's gradient arrives in the outer backward, once: with DistributedDataParallel nothing is to be done.
/// The recomputation runs under the autocast of the forward and in gradient mode. Without gradient mode, or where
/// nothing needs a gradient, this is function(inputs).
/// Nested calls, modules that are used twice, outputs without a gradient and backward with retain_graph work.
/// Hooks of tensors (Tensor::register_hook) on parameters may be called in the recomputation as well.
///
/// Throws UsageError from backward(): where `function` uses a tensor that needs a gradient and is neither among inputs
/// nor parameters (that gradient would be lost); where it returns other shapes than in forward; for create_graph.
/// Communication inside of `function` (SyncBatchNorm) happens again in backward, on all ranks alike.
/// Threads: as autograd's. Source: torch.utils.checkpoint.checkpoint.
std::vector<at::Tensor> activation_checkpoint_function(const CheckpointedFunction& function,
                                                       const std::vector<at::Tensor>& inputs,
                                                       const CheckpointOptions& options = {});

/// module->forward(inputs...), one tensor, with all parameters and buffers of the module:
///
///     x = lockstep::activation_checkpoint(block1, x);
template <typename ModuleHolder, typename... Inputs>
at::Tensor activation_checkpoint(const ModuleHolder& module, const at::Tensor& input, const Inputs&... inputs) {
  const CheckpointedFunction forward = [module = module](const std::vector<at::Tensor>& all) mutable {
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
      return std::vector<at::Tensor>{module->forward(all[I]...)};
    }
    (std::make_index_sequence<1 + sizeof...(Inputs)>());
  };
  return activation_checkpoint_function(forward, {input, inputs...},
                                        {.parameters = module->parameters(), .buffers = module->buffers()})[0];
}

}  // namespace lockstep
