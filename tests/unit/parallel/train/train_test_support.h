#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <torch/torch.h>

#include "lockstep/core/store/store.h"
#include "lockstep/parallel/data/dataset.h"
#include "lockstep/parallel/group/process_group.h"
#include "lockstep/parallel/train/model.h"

namespace lockstep::train {

/// Runs `rank_main` as `world_size` ranks on threads; rethrows the first rank's exception.
inline void run_ranks(int world_size, const std::function<void(std::shared_ptr<ProcessGroup>)>& rank_main) {
  const auto store = make_memory_store();
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(world_size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        const auto limit = std::chrono::seconds(30);
        RankEnvironment environment;
        environment.rank = environment.local_rank = rank;
        environment.world_size = environment.local_world_size = world_size;
        rank_main(std::make_shared<ProcessGroup>(
            make_communicator(store, rank, world_size, {.timeout = limit, .init_timeout = limit}), environment, store));
      } catch (...) {
        errors[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

/// Samples of `width` numbers in [0, 1) and three classes that a linear model can tell apart; the same at each making.
class Blobs final : public data::Dataset {
 public:
  explicit Blobs(std::int64_t size, std::int64_t width = 4) {
    auto generator = at::detail::createCPUGenerator(7);
    data_ = torch::rand({size, width}, generator);
    target_ = torch::arange(size, torch::kInt64).remainder(3);
    for (std::int64_t i = 0; i < size; ++i) data_[i][target_[i].item<std::int64_t>()] += 1;
  }
  std::size_t size() const override { return static_cast<std::size_t>(data_.size(0)); }
  data::Batch get_batch(const std::vector<std::int64_t>& indices) const override {
    const at::Tensor index = torch::tensor(indices, torch::kInt64);
    return {data_.index_select(0, index), target_.index_select(0, index)};
  }
  std::vector<std::int64_t> sample_shape() const override { return {data_.size(1)}; }
  std::int64_t num_classes() const override { return 3; }

 private:
  at::Tensor data_;
  at::Tensor target_;
};

/// The same weights at each making, without the global generator, which ranks on threads would share.
inline torch::nn::Linear make_linear(std::int64_t inputs, std::int64_t outputs) {
  torch::nn::Linear linear(inputs, outputs);
  const torch::NoGradGuard no_grad;
  linear->weight.copy_(torch::linspace(-0.5, 0.5, inputs * outputs).reshape({outputs, inputs}));
  linear->bias.zero_();
  return linear;
}

}  // namespace lockstep::train
