#pragma once
// Internal: never included from a public header.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "lockstep/parallel/ddp/ddp_options.h"
#include "lockstep/parallel/group/process_group.h"

namespace torch::nn {
class Module;
}

namespace lockstep::ddp {

struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

/// What ranks hold alike: the tensors of a module under their names, in registration order. A tensor that is
/// registered under several names counts once, under the first.
struct ModuleState {
  std::vector<NamedTensor> parameters;
  std::vector<NamedTensor> buffers;
};

/// Throws UsageError that names a tensor which is not dense, on the CPU and of a dtype that core carries, or a trained
/// parameter that is the result of a computation; and one when nothing requires a gradient. Tensors whose name is in
/// `ignored` are left out; UsageError for such a name that nothing has.
ModuleState collect_state(const torch::nn::Module& module, const std::vector<std::string>& ignored = {});

/// UsageError when no parameter requires a gradient.
void require_trained(const ModuleState& state);

/// Collective: compares the descriptions (names, shapes, dtypes, what is trained, options) with rank 0's.
/// Costs an exchange of 8 bytes per rank where they agree. Throws MismatchError, with the same text on every rank,
/// that names the first difference of the lowest rank that differs.
void verify_state(ProcessGroup& group, const ModuleState& state, const DdpOptions& options);

/// Collective: MismatchError, with the same text on every rank, where ranks have different texts. `what` says of what.
void verify_text(ProcessGroup& group, const std::string& what, const std::string& text);

/// Whether autograd is told that a tensor has changed, so that a graph which saved it refuses to run backward.
enum class Versions {
  kRaised,
  kKept,  ///< as BatchNorm updates its statistics: several forwards before one backward work, on every rank or on none
};

/// Brings tensors of any dtype to one rank's values through one flat buffer: one operation, however many tensors.
class FlatBroadcast {
 public:
  /// Collective: the flat buffer is backend memory. `label` is for messages.
  FlatBroadcast(ProcessGroup& group, std::vector<NamedTensor> tensors, std::string label, Versions versions);

  /// Collective. The tensors stay where they are; only ranks other than `root` write them.
  void run(int root);

 private:
  ProcessGroup& group_;
  std::vector<NamedTensor> tensors_;
  std::string label_;
  Versions versions_;
  at::Tensor flat_;                // u8
  std::vector<at::Tensor> slots_;  // of flat_, each with its tensor's shape and dtype
};

/// Collective: parameters and buffers become equal to those of `root`, through temporary buffers of bounded size.
void broadcast_state(ProcessGroup& group, const ModuleState& state, int root);

}  // namespace lockstep::ddp
