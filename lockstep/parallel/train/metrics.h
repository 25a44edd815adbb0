#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/parallel/train/records.h"

namespace lockstep::train {

/// Writes a run's records to a file as JSON lines, one object a line with its kind in "event":
///   {"event":"step","step":1,"epoch":1,"loss":2.3,"samples":64,"step_ms":1.9,"data_wait_ms":0.1,"comm_wait_ms":0.2,
///    "samples_per_s":33684.2}
///   {"event":"epoch","epoch":1,"step":23,"train_loss":2.1,"seconds":0.04,"test_loss":1.8,"test_accuracy":0.61,
///    "test_correct":218,"test_total":357}           (the test_ fields where the epoch ended with an evaluation)
/// and other lines as they come. Numbers read back to the same double. Each line is in the file when the call returns.
///
/// Thread safety: one thread. Throws SystemError that names the file.
class MetricsWriter {
 public:
  /// Creates `file`, or empties it.
  explicit MetricsWriter(std::string file);
  void step(const StepRecord& record);
  void epoch(const EpochRecord& record);
  /// One JSON object, without its newline.
  void line(std::string_view json);

 private:
  std::string file_;
  std::ofstream out_;
};

/// The losses of the "step" lines of a metrics file, in order. SystemError (a missing file), CorruptionError (a line
/// that is no JSON object, a step without its loss or out of order); names the file and the line.
std::vector<double> read_losses(const std::string& file);

/// The last "summary" line of a metrics file. CorruptionError where there is none: the run did not end well.
std::string read_summary(const std::string& file);

/// How far apart the losses of two runs are, step by step.
struct LossDifference {
  std::int64_t steps = 0;
  double largest = 0;           ///< absolute
  std::int64_t worst_step = 0;  ///< where, from 1; 0 where there are no steps
};

/// Pure. UsageError where the numbers of steps differ.
LossDifference compare_losses(const std::vector<double>& main, const std::vector<double>& control);

}  // namespace lockstep::train
