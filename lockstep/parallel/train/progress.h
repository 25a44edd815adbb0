#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "lockstep/core/base/deadline.h"
#include "lockstep/parallel/train/records.h"

namespace lockstep::train {

/// What a progress line says.
struct ProgressState {
  std::int64_t epoch = 0;  ///< from 1
  std::int64_t epochs = 0;
  std::int64_t step = 0;  ///< done
  std::int64_t steps = 0;
  double loss = 0;
  double samples_per_second = 0;  ///< of all ranks
  double comm_share = 0;          ///< part of the step that waits for communication, 0 to 1
  double seconds_left = 0;
};

// Pure functions to text; no newline at the end.

/// One line of at most `columns` characters (colour codes aside): a bar, loss, samples/s, share of the step that
/// waits for communication, time left. Where there is too little room the bar goes first, then the end of the line.
std::string format_bar(const ProgressState& state, int columns, bool color);
/// The same for an output that is no terminal.
std::string format_step(const ProgressState& state);
/// "epoch 3/20  loss 0.1234  test 96.92 % (346 of 357)  33,684 samples/s  wait 3.1 %".
std::string format_epoch(const EpochRecord& record);
/// 75 -> "1:15", 3675 -> "1:01:15".
std::string format_duration(double seconds);
/// 33684.2 -> "33,684".
std::string format_count(double count);

struct ProgressOptions {
  int fd = 2;        ///< where to; not owned
  bool bar = false;  ///< one line that is redrawn, for terminals; else plain lines
  bool color = false;
  Duration interval = std::chrono::seconds(10);  ///< between two drawings within an epoch
};

/// What suits `fd`: plain lines; where it is a terminal, a bar ten times a second, with colours unless NO_COLOR is set.
ProgressOptions detect_progress_options(int fd);

/// Shows a run's progress to people; each line is one write. A write that fails is ignored: progress is no reason to
/// end a run. Thread safety: one thread.
class Progress {
 public:
  explicit Progress(ProgressOptions options) : options_(options) {}
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void step(const StepRecord& record);
  void epoch(const EpochRecord& record);
  /// A line of its own, above the bar.
  void note(std::string_view text);

 private:
  ProgressState update(const StepRecord& record);
  void erase_bar();
  void write(std::string_view text) const;

  ProgressOptions options_;
  Clock::time_point drawn_ = Clock::now();
  bool bar_shown_ = false;
  // Sums over the last seconds, faded out, so that the line follows changes without jumping.
  double samples_ = 0;
  double seconds_ = 0;
  double comm_wait_ = 0;
  double loss_sum_ = 0;
  double step_count_ = 0;
};

}  // namespace lockstep::train
