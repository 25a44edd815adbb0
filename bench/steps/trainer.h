#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <torch/torch.h>

namespace lockstep {
class DataParallelEngine;
}

namespace lockstep::bench {

/// Training of one replica by SGD with momentum, and what its steps took.
class Trainer {
 public:
  /// `loss` computes the loss of this rank's batch; `after_backward` is called in each step before the optimizer.
  Trainer(std::vector<torch::Tensor> parameters, std::function<torch::Tensor()> loss,
          std::function<void()> after_backward = {});

  /// Has `engine` step the optimizer and clear the gradients, from now on.
  void step_in(DataParallelEngine& engine);

  /// One step that is not counted, since it brings the replica's memory back into cache, and `steps` that are.
  /// `after_step` is called after each of these, outside of what is measured.
  void run(int steps, const std::function<void()>& after_step = {});
  /// Forgets what was measured.
  void reset();

  double median_ms() const;  ///< of a step
  double median_cpu_ms() const;
  /// Of all steps counted.
  double total_ms() const;  ///< of this process in a step, waiting by spinning included
  double faults() const;    ///< page faults of a step
  double last_loss() const { return last_loss_; }

 private:
  void step();

  std::function<torch::Tensor()> loss_;
  std::function<void()> after_backward_;
  torch::optim::SGD optimizer_;
  bool steps_in_backward_ = false;
  std::vector<double> times_ms_;
  std::vector<double> cpu_ms_;
  std::int64_t faults_ = 0;
  double last_loss_ = 0;
};

/// The middle of a list; throws InternalError where there is none.
double median(std::vector<double> values);

}  // namespace lockstep::bench
