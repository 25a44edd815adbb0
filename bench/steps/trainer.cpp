#include "bench/steps/trainer.h"

#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/ddp/engine.h"

namespace lockstep::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;

std::int64_t page_faults() {
  rusage usage{};
  LS_SYSCALL(::getrusage(RUSAGE_SELF, &usage), "counting page faults");
  return usage.ru_minflt;
}

double process_cpu_ms() {
  timespec now{};
  LS_SYSCALL(::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now), "reading the process's time");
  return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}

}  // namespace

Trainer::Trainer(std::vector<torch::Tensor> parameters, std::function<torch::Tensor()> loss,
                 std::function<void()> after_backward)
    : loss_(std::move(loss)),
      after_backward_(std::move(after_backward)),
      optimizer_(std::move(parameters), torch::optim::SGDOptions(0.01).momentum(0.9)) {}

void Trainer::step_in(DataParallelEngine& engine) {
  engine.step_in_backward(optimizer_);
  steps_in_backward_ = true;
}

void Trainer::step() {
  if (!steps_in_backward_) optimizer_.zero_grad();
  const auto loss = loss_();
  loss.backward();
  if (after_backward_) after_backward_();
  if (!steps_in_backward_) optimizer_.step();
  last_loss_ = loss.item<double>();
}

void Trainer::run(int steps, const std::function<void()>& after_step) {
  step();
  for (int i = 0; i < steps; ++i) {
    const std::int64_t faults = page_faults();
    const double cpu_ms = process_cpu_ms();
    const auto start = SteadyClock::now();
    step();
    times_ms_.push_back(std::chrono::duration<double, std::milli>(SteadyClock::now() - start).count());
    cpu_ms_.push_back(process_cpu_ms() - cpu_ms);
    faults_ += page_faults() - faults;
    if (after_step) after_step();
  }
}

void Trainer::reset() {
  times_ms_.clear();
  cpu_ms_.clear();
  faults_ = 0;
}

double Trainer::median_ms() const { return median(times_ms_); }
double Trainer::median_cpu_ms() const { return median(cpu_ms_); }
double Trainer::total_ms() const { return std::accumulate(times_ms_.begin(), times_ms_.end(), 0.0); }
double Trainer::faults() const { return static_cast<double>(faults_) / static_cast<double>(times_ms_.size()); }

double median(std::vector<double> values) {
  LS_CHECK(!values.empty(), "the median of nothing");
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

}  // namespace lockstep::bench
