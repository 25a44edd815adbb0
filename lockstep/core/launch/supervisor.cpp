// One poll loop: signals, the ends of workers (pidfd), their output, and our own terminal when it has room again.

#include "lockstep/core/launch/supervisor.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "lockstep/core/base/check.h"
#include "lockstep/core/launch/output.h"
#include "lockstep/core/launch/worker.h"

namespace lockstep::launch {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(100);
constexpr auto kNotice = std::chrono::milliseconds(300);          // From the first failure to the end of the others.
constexpr Duration kFlush = std::chrono::seconds(60);             // for a reader that has stopped reading, a pager
constexpr Duration kHastyFlush = std::chrono::milliseconds(500);  // the same after Ctrl-C
constexpr Duration kDeath = std::chrono::seconds(10);             // for a process that was killed to be gone

int poll_milliseconds(Duration left) {
  if (left == Duration::max()) return -1;
  // Rounded up: a deadline that is not quite there yet must not be polled for in a busy loop.
  const auto rounded = std::chrono::ceil<std::chrono::milliseconds>(left).count();
  return static_cast<int>(std::min<std::int64_t>(rounded, 3'600'000));
}

}  // namespace

class Supervisor::Impl {
 public:
  Impl(Supervisor& self, SupervisorOptions options)
      : options_(std::move(options)), out_(STDOUT_FILENO), err_(STDERR_FILENO) {
    receivers_ = {&out_, &err_, {}};
    if (options_.on_line) {
      receivers_.on_line = [this, &self](const OutputLine& line) { options_.on_line(self, line); };
    }
  }

  void start(WorkerSpec spec) { workers_.push_back(std::make_unique<Worker>(std::move(spec))); }

  bool signal(int rank, int signal) noexcept {
    const auto found = std::ranges::find_if(workers_, [rank](const auto& worker) { return worker->rank() == rank; });
    return found != workers_.end() && (*found)->signal(signal);
  }

  void abandon() noexcept {
    for (const auto& worker : workers_) worker->abandon();
  }

  RunEnd run() {
    while (!finished()) {
      wait_and_pump();
      collect_ends();
      take_signals();
      if (options_.elsewhere && !end_.elsewhere_gone) ask_elsewhere();
      keep_deadlines();
    }
    flush();
    end_.workers.clear();
    for (const auto& worker : workers_) end_.workers.push_back(worker->end());
    return end_;
  }

 private:
  enum class Phase { kRunning, kEnding, kKilled };

  bool any_alive() const {
    return std::ranges::any_of(workers_, [](const auto& worker) { return worker->alive(); });
  }

  bool finished() const {
    if (any_alive()) return false;
    return !options_.elsewhere || end_.elsewhere_gone || elsewhere_finished_ || end_.interrupted_by != 0;
  }

  void say(const std::string& text) {
    if (!options_.narrator.empty()) err_.append(options_.narrator + ": " + text + "\n");
  }

  void wait_and_pump() {
    std::vector<pollfd> fds;
    std::vector<std::function<void()>> actions;
    const auto watch = [&](int fd, short events, std::function<void()> action) {
      fds.push_back({fd, events, 0});
      actions.push_back(std::move(action));
    };
    for (const auto& owner : workers_) {
      Worker* const worker = owner.get();
      if (!worker->alive()) continue;
      watch(worker->pidfd(), POLLIN, [] {});
      for (Worker::Stream* const stream : {&worker->out(), &worker->err()}) {
        const bool held_up = stream->spec.show && (stream->error ? err_ : out_).full();
        if (!stream->pipe || held_up) continue;
        watch(stream->pipe.get(), POLLIN, [this, worker, stream] { worker->pump(*stream, receivers_); });
      }
    }
    for (Sink* const sink : {&out_, &err_}) {
      if (sink->pending()) watch(sink->fd(), POLLOUT, [sink] { sink->write_some(); });
    }
    if (options_.signals != nullptr) watch(options_.signals->fd(), POLLIN, [] {});
    if (::poll(fds.data(), fds.size(), poll_milliseconds(time_left())) <= 0) return;
    for (std::size_t i = 0; i < fds.size(); ++i) {
      if (fds[i].revents != 0) actions[i]();
    }
  }

  Duration time_left() const {
    Duration left = end_.deadline_passed ? Duration::max() : options_.deadline.left();
    if (any_alive()) left = std::min(left, phase_end_.left());
    if (options_.elsewhere && !end_.elsewhere_gone) left = std::min(left, next_question_.left());
    return left;
  }

  /// Several may have ended at once. Who died of a signal is the likelier cause: the others may have missed it.
  void collect_ends() {
    const WorkerEnd* cause = nullptr;
    std::size_t index = 0;
    for (std::size_t i = 0; i < workers_.size(); ++i) {
      Worker& worker = *workers_[i];
      if (!worker.alive() || !has_ended(worker)) continue;
      worker.reap(receivers_);
      const WorkerEnd& end = worker.end();
      if (!end.failed() || end.told_to || (cause != nullptr && (cause->signal != 0 || end.signal == 0))) continue;
      cause = &end;
      index = i;
    }
    if (cause == nullptr || end_.first_failure) return;
    end_.first_failure = index;
    end_.workers.clear();
    for (const auto& worker : workers_) end_.workers.push_back(worker->end());
    say(report(*cause));
    next_question_ = Deadline::after(Duration::zero());
    if (options_.end_on_failure) let_notice();
  }

  /// The others notice by themselves within 100 ms, and then say more than being ended lets them: in which operation
  /// they missed the worker, and what they had done before.
  void let_notice() {
    if (phase_ == Phase::kRunning && !phase_end_.bounded()) phase_end_ = Deadline::after(kNotice);
  }

  static bool has_ended(const Worker& worker) {
    pollfd fd{worker.pidfd(), POLLIN, 0};
    return ::poll(&fd, 1, 0) > 0;
  }

  void take_signals() {
    if (options_.signals == nullptr) return;
    while (const int signal = options_.signals->next()) {
      if (signal == SIGTSTP) {
        pause();
      } else if (phase_ == Phase::kRunning) {
        say(base::cat(signal_name(signal), ": ending the workers"));
        end_.interrupted_by = signal;
        next_question_ = Deadline::after(Duration::zero());
        end_all(signal);
      } else {
        if (end_.interrupted_by == 0) end_.interrupted_by = signal;
        next_question_ = Deadline::after(Duration::zero());
        // A second one means now; the first may have come while a failure was being cleared away.
        if (phase_ == Phase::kEnding) say(base::cat(signal_name(signal), ": killing the workers"));
        kill_all();
      }
    }
  }

  /// Ctrl-Z stops the workers and this process; whoever continues it continues them.
  void pause() {
    for (const auto& worker : workers_) worker->signal(SIGSTOP);
    ::raise(SIGSTOP);
    for (const auto& worker : workers_) worker->signal(SIGCONT);
  }

  void ask_elsewhere() {
    if (!next_question_.passed()) return;
    next_question_ = Deadline::after(kTick);
    Elsewhere answer;
    try {
      answer = options_.elsewhere(end_, !any_alive());
    } catch (const Error& error) {
      end_.elsewhere_gone = true;
      answer = {Elsewhere::State::kStop, error.what()};
    }
    elsewhere_finished_ = answer.state == Elsewhere::State::kFinished;
    if (answer.state != Elsewhere::State::kStop || end_.stopped) return;
    end_.stopped = answer.reason;
    // What failed here has been said.
    if (phase_ == Phase::kRunning && (!end_.first_failure || end_.elsewhere_gone)) say(answer.reason);
    let_notice();
  }

  void keep_deadlines() {
    if (options_.deadline.passed() && !end_.deadline_passed) {
      end_.deadline_passed = true;
      kill_all();
    }
    if (!phase_end_.passed() || !any_alive()) return;
    if (phase_ == Phase::kRunning) return end_all(SIGTERM);
    if (phase_ == Phase::kKilled) throw TimeoutError(base::cat("workers that were killed do not die: ", alive_names()));
    say(base::cat("still running ", seconds(options_.grace), " s after being told to end, killed: ", alive_names()));
    kill_all();
  }

  std::string alive_names() const {
    std::string names;
    for (const auto& worker : workers_) {
      if (worker->alive()) names += base::cat(names.empty() ? "rank " : ", rank ", worker->rank());
    }
    return names;
  }

  void end_all(int signal) {
    if (phase_ != Phase::kRunning) return;
    phase_ = Phase::kEnding;
    phase_end_ = Deadline::after(options_.grace);
    for (const auto& worker : workers_) worker->tell(signal);
  }

  void kill_all() {
    if (phase_ == Phase::kKilled) return;
    phase_ = Phase::kKilled;
    phase_end_ = Deadline::after(kDeath);
    for (const auto& worker : workers_) worker->tell(SIGKILL);
  }

  /// As the workers would wait for whoever reads their output, as long as that reads or nobody wants an end.
  void flush() {
    const auto patience = [this] { return Deadline::after(end_.interrupted_by != 0 ? kHastyFlush : kFlush); };
    for (Deadline deadline = patience(); (out_.pending() || err_.pending()) && !deadline.passed();) {
      pollfd fds[] = {{out_.pending() ? out_.fd() : -1, POLLOUT, 0},
                      {err_.pending() ? err_.fd() : -1, POLLOUT, 0},
                      {options_.signals != nullptr ? options_.signals->fd() : -1, POLLIN, 0}};
      if (::poll(fds, 3, poll_milliseconds(deadline.left())) <= 0) continue;
      if (fds[0].revents != 0) out_.write_some();
      if (fds[1].revents != 0) err_.write_some();
      if (fds[2].revents != 0) take_signals();
      deadline = patience();
    }
    if (!out_.pending() || err_.pending() || end_.interrupted_by != 0) return;
    say(base::cat("nobody has read the output for ", seconds(kFlush), " s; the rest of it is lost"));
    err_.write_some();
  }

  SupervisorOptions options_;
  Sink out_;
  Sink err_;
  Worker::Receivers receivers_{};
  std::vector<std::unique_ptr<Worker>> workers_;
  RunEnd end_;
  Phase phase_ = Phase::kRunning;
  Deadline phase_end_ = Deadline::none();
  Deadline next_question_ = Deadline::after(Duration::zero());
  bool elsewhere_finished_ = false;
};

Supervisor::Supervisor(SupervisorOptions options) : impl_(std::make_unique<Impl>(*this, std::move(options))) {}
Supervisor::~Supervisor() = default;

void Supervisor::start(WorkerSpec spec) { impl_->start(std::move(spec)); }
RunEnd Supervisor::run() { return impl_->run(); }
bool Supervisor::signal(int rank, int signal) { return impl_->signal(rank, signal); }
void Supervisor::abandon() noexcept { impl_->abandon(); }

}  // namespace lockstep::launch
