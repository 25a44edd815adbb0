#include "lockstep/parallel/data/distributed_sampler.h"

#include <limits>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/randperm.h>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/log.h"
#include "lockstep/parallel/group/process_group.h"

namespace lockstep {

DistributedSampler::DistributedSampler(std::size_t dataset_size, int rank, int world_size,
                                       DistributedSamplerOptions options)
    : dataset_size_(dataset_size), rank_(rank), world_size_(world_size), options_(options) {
  LS_REQUIRE(world_size >= 1, "DistributedSampler: world_size is ", world_size, "; it must be at least 1");
  LS_REQUIRE(rank >= 0 && rank < world_size, "DistributedSampler: rank ", rank, " is outside [0, ", world_size, ")");
  LS_REQUIRE(dataset_size >= 1, "DistributedSampler: the dataset is empty; there is nothing to give to ", world_size,
             " rank(s)");
  LS_REQUIRE(dataset_size <= static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max()),
             "DistributedSampler: a dataset of ", dataset_size, " samples cannot be indexed with 64 signed bits");
  const auto ranks = static_cast<std::size_t>(world_size);
  const bool uneven = dataset_size % ranks != 0;
  per_rank_ = dataset_size / ranks + (uneven && !options.drop_last ? 1 : 0);
}

DistributedSampler::DistributedSampler(std::size_t dataset_size, const ProcessGroup& group,
                                       DistributedSamplerOptions options)
    : DistributedSampler(dataset_size, group.rank(), group.world_size(), options) {}

std::vector<std::int64_t> DistributedSampler::indices() const {
  if (options_.shuffle && repetition_.taken.exchange(true) && !repetition_.said.exchange(true) && rank_ == 0) {
    LS_LOG(kWarning, "DistributedSampler: the order of epoch ", epoch_,
           " is taken a second time; call set_epoch(epoch) before each epoch, or every epoch has the same order (where "
           "that is wanted: shuffle = false)");
  }
  at::Tensor order;
  const std::int64_t* shuffled = nullptr;
  if (options_.shuffle) {
    order = at::randperm(static_cast<std::int64_t>(dataset_size_),
                         at::detail::createCPUGenerator(options_.seed + epoch_), at::dtype(at::kLong));
    shuffled = order.data_ptr<std::int64_t>();
  }
  std::vector<std::int64_t> mine(per_rank_);
  auto position = static_cast<std::size_t>(rank_);
  for (auto& index : mine) {
    // Past its end the order starts again, as often as needed: that is Python's padding.
    const std::size_t wrapped = position < dataset_size_ ? position : position % dataset_size_;
    index = shuffled != nullptr ? shuffled[wrapped] : static_cast<std::int64_t>(wrapped);
    position += static_cast<std::size_t>(world_size_);
  }
  return mine;
}

std::size_t DistributedSampler::padding() const noexcept {
  if (per_rank_ == 0) return 0;
  const auto last = static_cast<std::size_t>(rank_) + (per_rank_ - 1) * static_cast<std::size_t>(world_size_);
  return last < dataset_size_ ? 0 : 1;
}

}  // namespace lockstep
