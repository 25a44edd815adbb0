#pragma once

#include <string>
#include <vector>

#include "lockstep/core/base/deadline.h"

namespace lockstep::bench {

struct StepOptions {
  std::vector<std::string> models = {"all"};  ///< after parsing: names
  int nproc = 2;
  int threads = 1;
  double bucket_mib = 0;          ///< 0: as DdpOptions
  std::string hook = "none";      ///< or fp16, bf16: what gradients travel as
  bool step_in_backward = false;  ///< the mode "ddp" steps on each bucket as it arrives
  int blocks = 10;                ///< of each mode in a round
  int steps = 0;                  ///< of a block, after one that is not counted; 0: as the model has it
  int rounds = 3;
  double timeout_seconds = 120;
  bool json = false;
  bool with_pytorch = false;
  bool memory = false;
  bool host_cost = false;

  Duration timeout() const;
};

/// Parses the command line; ends the process where there is nothing to do (--help) or something is wrong (exit code 2).
StepOptions parse_options(int argc, char** argv);

}  // namespace lockstep::bench
