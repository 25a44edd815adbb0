#include "lockstep/parallel/ddp/distributed_data_parallel.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <torch/nn/module.h>

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/ddp/reducer.h"
#include "lockstep/parallel/ddp/replicate.h"

namespace lockstep {

class DataParallelEngine::Impl {
 public:
  Impl(const torch::nn::Module& module, std::shared_ptr<ProcessGroup> group, const DdpOptions& options)
      : group_(std::move(group)) {
    LS_REQUIRE(group_ != nullptr, "DistributedDataParallel: group is null; make one with init_process_group()");
    ddp::ModuleState state = collect_or_abort(module);
    ddp::verify_state(*group_, state, options);
    ddp::broadcast_state(*group_, state);
    std::erase_if(state.parameters, [](const auto& parameter) { return !parameter.tensor.requires_grad(); });
    reducer_ = ddp::Reducer::create(group_, std::move(state.parameters), options);
    if (options.broadcast_buffers && !state.buffers.empty()) {
      buffers_.emplace(*group_, std::move(state.buffers), "DDP: rank 0's buffers");
    }
  }

  void before_forward() {
    // A forward that is not trained on (evaluation) brings the buffers up to date once: they do not change in it, and
    // ranks may then evaluate different numbers of batches.
    const bool trains = at::GradMode::is_enabled();
    if (trains) reducer_->before_forward(synchronise_);
    if (synchronise_ && buffers_ && (trains || buffers_may_differ_)) buffers_->run();
    buffers_may_differ_ = trains;
  }

  bool synchronise_ = true;
  const DdpStatistics& statistics() const noexcept { return reducer_->statistics(); }

 private:
  /// A rank that refuses its own module says so to the others: they wait for it already.
  ddp::ModuleState collect_or_abort(const torch::nn::Module& module) {
    try {
      return ddp::collect_state(module);
    } catch (const UsageError& error) {
      group_->abort(error.what());
      throw;
    }
  }

  std::shared_ptr<ProcessGroup> group_;
  std::shared_ptr<ddp::Reducer> reducer_;
  std::optional<ddp::FlatBroadcast> buffers_;
  bool buffers_may_differ_ = false;
};

DataParallelEngine::DataParallelEngine(torch::nn::Module& module, std::shared_ptr<ProcessGroup> group,
                                       DdpOptions options)
    : impl_(std::make_unique<Impl>(module, std::move(group), options)) {}
DataParallelEngine::~DataParallelEngine() = default;
DataParallelEngine::DataParallelEngine(DataParallelEngine&&) noexcept = default;
DataParallelEngine& DataParallelEngine::operator=(DataParallelEngine&&) noexcept = default;

void DataParallelEngine::before_forward() { impl_->before_forward(); }
void DataParallelEngine::set_synchronise(bool on) noexcept { impl_->synchronise_ = on; }
bool DataParallelEngine::synchronises() const noexcept { return impl_->synchronise_; }
const DdpStatistics& DataParallelEngine::statistics() const noexcept { return impl_->statistics(); }

}  // namespace lockstep
