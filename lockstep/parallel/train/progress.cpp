#include "lockstep/parallel/train/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "lockstep/core/base/environment.h"

namespace lockstep::train {
namespace {

constexpr std::string_view kEraseLine = "\r\x1b[K";
constexpr int kFallbackColumns = 80;

template <typename... Args>
std::string print(const char* format, Args... args) {
  std::array<char, 256> text{};
  const int length = std::snprintf(text.data(), text.size(), format, args...);
  return std::string(text.data(), std::min(static_cast<std::size_t>(std::max(length, 0)), text.size() - 1));
}

std::string format_figures(const ProgressState& state) {
  return print("loss %.4f  %s samples/s  wait %.1f %%  %s left", state.loss,
               format_count(state.samples_per_second).c_str(), state.comm_share * 100,
               format_duration(state.seconds_left).c_str());
}

std::string draw_bar(double done, int width, bool color) {
  const int filled = std::clamp(static_cast<int>(std::lround(done * width)), 0, width);
  const std::string full(static_cast<std::size_t>(filled), '=');
  const std::string rest(static_cast<std::size_t>(width - filled), color ? '-' : ' ');
  if (!color) return "[" + full + rest + "]";
  return "[\x1b[32m" + full + "\x1b[0m\x1b[2m" + rest + "\x1b[0m]";
}

int terminal_columns(int fd) {
  winsize size{};
  return ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kFallbackColumns;
}

}  // namespace

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  const auto total = static_cast<long long>(std::min(std::round(seconds), 1e12));
  if (total >= 3600) return print("%lld:%02lld:%02lld", total / 3600, total / 60 % 60, total % 60);
  return print("%lld:%02lld", total / 60, total % 60);
}

std::string format_count(double count) {
  std::string digits = print("%.0f", count);
  for (auto i = static_cast<std::ptrdiff_t>(digits.size()) - 3; i > (digits.front() == '-' ? 1 : 0); i -= 3) {
    digits.insert(static_cast<std::size_t>(i), 1, ',');
  }
  return digits;
}

std::string format_bar(const ProgressState& state, int columns, bool color) {
  constexpr int kSmallestBar = 8;
  constexpr int kLargestBar = 40;
  const double done = state.steps > 0 ? static_cast<double>(state.step) / static_cast<double>(state.steps) : 0;
  const std::string head =
      print("epoch %lld/%lld ", static_cast<long long>(state.epoch), static_cast<long long>(state.epochs));
  const std::string tail = print(" %3.0f %%  ", done * 100) + format_figures(state);
  const int room = columns - static_cast<int>(head.size() + tail.size()) - 2;
  if (room >= kSmallestBar) return head + draw_bar(done, std::min(room, kLargestBar), color) + tail;
  return (head + tail).substr(0, static_cast<std::size_t>(std::max(columns, 0)));
}

std::string format_step(const ProgressState& state) {
  return print("epoch %lld/%lld  step %lld/%lld  ", static_cast<long long>(state.epoch),
               static_cast<long long>(state.epochs), static_cast<long long>(state.step),
               static_cast<long long>(state.steps)) +
         format_figures(state);
}

std::string format_epoch(const EpochRecord& record) {
  std::string line = print("epoch %lld/%lld  loss %.4f  ", static_cast<long long>(record.epoch),
                           static_cast<long long>(record.epochs), record.train_loss);
  if (record.test) {
    line += print("test %.2f %% (%lld of %lld)  ", record.test->accuracy() * 100,
                  static_cast<long long>(record.test->correct), static_cast<long long>(record.test->total));
  }
  const double rate = record.seconds > 0 ? static_cast<double>(record.samples) / record.seconds : 0;
  return line + print("%s samples/s  wait %.1f %%", format_count(rate).c_str(), record.comm_share * 100);
}

ProgressOptions detect_progress_options(int fd) {
  ProgressOptions options;
  options.fd = fd;
  options.bar = ::isatty(fd) == 1;
  options.color = options.bar && !environment_string("NO_COLOR");
  if (options.bar) options.interval = std::chrono::milliseconds(100);
  return options;
}

Progress::~Progress() { erase_bar(); }

ProgressState Progress::update(const StepRecord& record) {
  constexpr double kFadeSeconds = 2;
  const double keep = std::exp(-record.step_seconds / kFadeSeconds);
  samples_ = samples_ * keep + static_cast<double>(record.samples);
  seconds_ = seconds_ * keep + record.step_seconds;
  comm_wait_ = comm_wait_ * keep + record.comm_wait_seconds;
  loss_sum_ = loss_sum_ * keep + record.loss;
  step_count_ = step_count_ * keep + 1;

  ProgressState state;
  state.epoch = record.epoch;
  state.epochs = record.epochs;
  state.step = record.step;
  state.steps = record.steps;
  state.loss = loss_sum_ / step_count_;
  state.samples_per_second = seconds_ > 0 ? samples_ / seconds_ : 0;
  state.comm_share = seconds_ > 0 ? comm_wait_ / seconds_ : 0;
  state.seconds_left = static_cast<double>(record.steps - record.step) * seconds_ / step_count_;
  return state;
}

void Progress::step(const StepRecord& record) {
  const ProgressState state = update(record);
  const auto now = Clock::now();
  if (now - drawn_ < options_.interval) return;
  drawn_ = now;
  if (options_.bar) {
    // One column stays free: some terminals wrap when the last one is written.
    write(std::string(kEraseLine) + format_bar(state, terminal_columns(options_.fd) - 1, options_.color));
    bar_shown_ = true;
  } else {
    write(format_step(state) + "\n");
  }
}

void Progress::epoch(const EpochRecord& record) {
  note(format_epoch(record));
  // An epoch's line counts as a drawing where lines are rare; the bar comes back at once.
  if (!options_.bar) drawn_ = Clock::now();
}

void Progress::note(std::string_view text) {
  erase_bar();
  write(std::string(text) + "\n");
}

void Progress::erase_bar() {
  if (!bar_shown_) return;
  write(kEraseLine);
  bar_shown_ = false;
}

void Progress::write(std::string_view text) const {
  while (!text.empty()) {
    const ssize_t written = ::write(options_.fd, text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace lockstep::train
