#include "lockstep/core/backend/background.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "lockstep/core/base/time_slice.h"

namespace lockstep {
namespace {

constexpr auto kPeriod = std::chrono::microseconds(500);
constexpr int kIdlePeriods = 100;  ///< with nothing in flight, until it falls asleep

class Looker {
 public:
  static Looker& instance() {
    // Never destroyed: a communicator in a global takes its leave here after every static of this file has gone. The
    // thread ends at exit at the latest, before the process takes down what it looks at.
    static Looker* const looker = new Looker;
    static const std::unique_ptr<Looker, EndThread> at_exit(looker);
    return *looker;
  }

  void add(const std::weak_ptr<InFlight>& group) {
    const std::lock_guard lock(mutex_);
    groups_.push_back(group);
    awake_.store(true);
    changed_.notify_all();
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  }

  void remove(const InFlight& group) noexcept {
    std::unique_lock lock(mutex_);
    std::erase_if(groups_, [&](const auto& each) {
      const auto held = each.lock();
      return held == nullptr || held.get() == &group;
    });
    if (is_this_thread()) return;  // It can't wait for itself, and stays for the next group.
    looked_.wait(lock, [this] { return !looking_; });
    if (groups_.empty()) end_thread(std::move(lock));
  }

  void wake() noexcept {
    if (awake_.load()) return;
    const std::lock_guard lock(mutex_);
    awake_.store(true);
    changed_.notify_all();
  }

 private:
  struct EndThread {
    void operator()(Looker* looker) const noexcept {
      std::unique_lock lock(looker->mutex_);
      if (looker->is_this_thread()) return;
      looker->looked_.wait(lock, [looker] { return !looker->looking_; });
      looker->end_thread(std::move(lock));
    }
  };

  bool is_this_thread() const noexcept { return thread_.get_id() == std::this_thread::get_id(); }

  /// While it does not look. A thread that is in thread_ no more ends; a group that comes meanwhile gets another one.
  void end_thread(std::unique_lock<std::mutex> lock) noexcept {
    std::thread last = std::move(thread_);
    changed_.notify_all();
    lock.unlock();
    if (last.joinable()) last.join();
  }

  /// Looks at every group; true where something is in flight. Others have `lock` meanwhile.
  bool look(std::unique_lock<std::mutex>& lock) {
    const std::vector<std::weak_ptr<InFlight>> groups = groups_;
    looking_ = true;
    lock.unlock();
    bool in_flight = false;
    for (const auto& each : groups) {
      if (const auto group = each.lock()) in_flight |= group->progress_in_background();
    }
    lock.lock();
    looking_ = false;
    looked_.notify_all();
    return in_flight;
  }

  void run() {
    const base::ShortTimeSlices short_slices;  // Compute threads may be on every CPU.
    int idle = 0;
    std::unique_lock lock(mutex_);
    const auto ended = [this] { return !is_this_thread(); };
    while (!ended()) {
      idle = look(lock) ? 0 : idle + 1;
      if (idle < kIdlePeriods) {
        changed_.wait_for(lock, kPeriod, ended);
        continue;
      }
      // What began since that look may have found this thread awake, and would sleep with it: one more look. A caller
      // takes its turn in the group before it loads awake_, a look takes one after this store: the later one sees.
      awake_.store(false);
      if (!look(lock)) changed_.wait(lock, [&] { return ended() || awake_.load(); });
      awake_.store(true);
      idle = 0;
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::condition_variable looked_;
  std::vector<std::weak_ptr<InFlight>> groups_;
  std::thread thread_;
  std::atomic<bool> awake_{false};
  bool looking_ = false;
};

}  // namespace

void Background::add(const std::weak_ptr<InFlight>& group) { Looker::instance().add(group); }

void Background::remove(const InFlight& group) noexcept { Looker::instance().remove(group); }

void Background::wake() noexcept { Looker::instance().wake(); }

}  // namespace lockstep
