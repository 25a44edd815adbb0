#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace at {
class Tensor;
}
namespace torch::optim {
class Optimizer;
}

namespace lockstep {

class ProcessGroup;

/// What the sentinel does with a mistake that it finds.
enum class SentinelAction {
  kWarn,   ///< one line on rank 0's log
  kThrow,  ///< MismatchError on every rank
};

struct SentinelOptions {
  bool enabled = true;
  int checksum_every = 100;  ///< steps between comparisons; before the first one also at steps 1, 2, 4, 8 ...
  SentinelAction action = SentinelAction::kWarn;
};

enum class FindingKind {
  kOptimizerSettings,      ///< learning rates, momentum ... of the watched optimizers differ between ranks
  kOptimizerParameters,    ///< parameters get gradients but no watched optimizer holds them
  kParametersDiffer,       ///< the replicas are not bit-equal
  kGradientsNotAveraged,   ///< an optimizer stepped on a rank's own gradients, or averaging left them as they were
  kGradientsSummed,        ///< gradients are world_size times their mean
  kGradientsReducedTwice,  ///< the program reduces gradients that are averaged already
  kParametersReduced,      ///< the program reduces parameters
  kSameSamples,            ///< ranks read the same data
};
inline constexpr int kFindingKinds = 8;

/// "parameters differ" and so on: the kind's short name.
std::string_view name_of(FindingKind kind) noexcept;

struct Finding {
  FindingKind kind = FindingKind::kParametersDiffer;
  std::int64_t step = 0;   ///< backward passes that had averaged by then, this one included
  std::string tensor;      ///< the first that it is about; empty where it is about none
  std::vector<int> ranks;  ///< on which it was found, or that differ from the others
  std::string text;        ///< one line: what, where, and the likely mistake
};

/// Watches data-parallel training for the usual mistakes, at a cost below 1 %: replicas that do not start equal or do
/// not stay equal, gradients that are not averaged, or summed, or reduced twice, optimizers whose settings differ or
/// that hold other parameters, ranks that read the same samples. Each kind is said once. DistributedDataParallel owns
/// one and calls it; a loop that averages by hand can do the same:
///
///     lockstep::Sentinel sentinel(world, parameters);
///     sentinel.watch(optimizer);
///     for (...) {
///       sentinel.before_forward({x});
///       loss(net->forward(x)).backward();
///       average(gradients);
///       sentinel.after_backward(true);
///       optimizer.step();
///     }
///
/// Collective: after_backward(true), at steps that depend on the step's number alone, in the order of the group's other
///     collectives. Every rank calls it for the same steps. Nothing else communicates.
/// Cost: state is compared at steps 1, 2, 4 ... and each checksum_every-th (one pass over the parameters, less than
///     1 KiB a rank exchanged); samples at steps that grow by a quarter (2 KiB a rank), until every rank's first epoch
///     is over. Until then 4 KiB at most of each input row are read.
/// Threads: the thread that trains. Lifetime: holds the group and the parameters.
/// Failure: with kThrow a mistake that the ranks find together is the same MismatchError on each. One that a rank finds
///     by itself, by what its program does, ends the group first, so that no peer waits: AbortedError there.
/// What it cannot see: docs/design/0013-sentinel.md.
class Sentinel {
 public:
  using NamedParameters = std::vector<std::pair<std::string, at::Tensor>>;

  /// Local. `parameters` are dense and on the CPU, the same number of them in the same order on every rank.
  /// UsageError where checksum_every is below 1 or the group is null.
  Sentinel(std::shared_ptr<ProcessGroup> group, NamedParameters parameters, SentinelOptions options = {});
  ~Sentinel();
  Sentinel(Sentinel&&) noexcept;
  Sentinel& operator=(Sentinel&&) noexcept;

  /// Compares this optimizer's settings over the ranks from now on, and looks whether the watched optimizers together
  /// hold all parameters that get gradients. It must live until unwatch(), or until the last backward.
  void watch(const torch::optim::Optimizer& optimizer);
  void unwatch(const torch::optim::Optimizer& optimizer) noexcept;

  /// Local: before each forward that trains. Of `inputs` the rows (dim 0) of the first tensor are the samples; leave
  /// the list empty for data that all ranks are meant to see.
  void before_forward(const std::vector<at::Tensor>& inputs);

  /// Local: at the beginning of a backward that will be averaged, where more than one follows a forward: what the
  /// program, or a communication hook, reduces from now on is not reduced twice.
  void before_backward() noexcept;

  /// True in the steps whose gradients are compared: then the two calls below are made for one piece of the gradients,
  /// in the same place on every rank. Changes with after_backward(true) only.
  bool wants_gradients() const noexcept;
  /// Local: what this rank contributes to the average, before it is averaged. `name` is for messages.
  void sample_before(const at::Tensor& gradients, std::string_view name);
  /// Local: the same memory when it holds the average.
  void sample_after(const at::Tensor& gradients);

  /// Local: where optimizers step before after_backward(true), just before they do.
  void before_step();

  /// averaged: at the end of a backward whose gradients are now the same on all ranks; collective.
  /// Otherwise: in a backward whose gradients stay this rank's own, before the optimizer steps; local, and a repeated
  /// call changes nothing.
  void after_backward(bool averaged);

  /// Everything found up to now, in the order in which it was found.
  const std::vector<Finding>& findings() const noexcept;

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace lockstep
