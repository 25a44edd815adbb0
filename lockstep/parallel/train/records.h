#pragma once

#include <cstdint>
#include <optional>

namespace lockstep::train {

/// Exact counts over all ranks; a sample that pads a rank's share is not counted twice.
struct Evaluation {
  std::int64_t correct = 0;
  std::int64_t total = 0;  ///< predictions: one a sample, or one for each position of a text
  double mean_loss = 0;    ///< cross entropy, over `total` predictions
  double accuracy() const noexcept {
    return total == 0 ? 0 : static_cast<double>(correct) / static_cast<double>(total);
  }
};

/// One optimizer step, as seen by this rank; what is over all ranks is said.
struct StepRecord {
  std::int64_t step = 0;   ///< from 1, through all epochs
  std::int64_t steps = 0;  ///< how many there will be
  std::int64_t epoch = 0;  ///< from 1
  std::int64_t epochs = 0;
  std::int64_t samples = 0;  ///< of all ranks
  double loss = 0;           ///< mean over the step's samples: of all ranks, or of this one (FitOptions::global_loss)
  double step_seconds = 0;   ///< from the end of the step before: data, forward, backward, optimizer
  double data_wait_seconds = 0;  ///< of that, waiting for the loader, behind the on_step of the step before
  double comm_wait_seconds = 0;  ///< of that, backward waiting for communication at its end
};

/// One pass over the training data.
struct EpochRecord {
  std::int64_t epoch = 0;  ///< from 1
  std::int64_t epochs = 0;
  std::int64_t step = 0;           ///< steps done so far
  std::int64_t samples = 0;        ///< of all ranks, in this epoch
  double train_loss = 0;           ///< mean over the epoch's samples of all ranks
  double seconds = 0;              ///< training, without evaluation
  double comm_share = 0;           ///< part of `seconds` that waited for communication; this rank
  std::optional<Evaluation> test;  ///< where the epoch ended with an evaluation
};

/// A whole run.
struct FitReport {
  std::int64_t epochs = 0;  ///< complete or cut short by max_steps
  std::int64_t steps = 0;
  std::int64_t samples = 0;  ///< of all ranks
  double seconds = 0;        ///< training, without evaluation
  double train_loss = 0;     ///< of the last epoch
  double comm_share = 0;     ///< part of the steps' time that waited for communication; mean over ranks
  std::optional<Evaluation> test;
  double samples_per_second() const noexcept { return seconds > 0 ? static_cast<double>(samples) / seconds : 0; }
};

}  // namespace lockstep::train
