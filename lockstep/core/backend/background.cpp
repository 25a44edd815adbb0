#include "lockstep/core/backend/background.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace lockstep {
namespace {

constexpr auto kPeriod = std::chrono::microseconds(500);
constexpr int kIdlePeriods = 100;  ///< with nothing in flight, until it falls asleep

class Looker {
 public:
  static Looker& instance() {
    static Looker looker;
    return looker;
  }

  ~Looker() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
      changed_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
  }

  void add(const std::weak_ptr<InFlight>& group) {
    const std::lock_guard lock(mutex_);
    groups_.push_back(group);
    awake_.store(true);
    changed_.notify_all();
    if (running_) return;
    if (thread_.joinable()) thread_.join();
    running_ = true;
    thread_ = std::thread([this] { run(); });
  }

  void remove(const InFlight& group) noexcept {
    std::unique_lock lock(mutex_);
    std::erase_if(groups_, [&](const auto& each) {
      const auto held = each.lock();
      return held == nullptr || held.get() == &group;
    });
    awake_.store(true);
    changed_.notify_all();
    if (std::this_thread::get_id() != thread_.get_id()) {
      looked_.wait(lock, [this] { return !looking_; });
    }
  }

  void wake() noexcept {
    if (awake_.load(std::memory_order_relaxed)) return;
    const std::lock_guard lock(mutex_);
    awake_.store(true);
    changed_.notify_all();
  }

 private:
  void run() {
    int idle = 0;
    std::unique_lock lock(mutex_);
    while (!stop_) {
      if (groups_.empty()) break;
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
      idle = in_flight ? 0 : idle + 1;
      if (idle < kIdlePeriods) {
        changed_.wait_for(lock, kPeriod, [this] { return stop_; });
        continue;
      }
      awake_.store(false);
      changed_.wait(lock, [this] { return stop_ || awake_.load(); });
      idle = 0;
    }
    running_ = false;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::condition_variable looked_;
  std::vector<std::weak_ptr<InFlight>> groups_;
  std::thread thread_;
  std::atomic<bool> awake_{false};
  bool running_ = false;
  bool looking_ = false;
  bool stop_ = false;
};

}  // namespace

void Background::add(const std::weak_ptr<InFlight>& group) { Looker::instance().add(group); }

void Background::remove(const InFlight& group) noexcept { Looker::instance().remove(group); }

void Background::wake() noexcept { Looker::instance().wake(); }

}  // namespace lockstep
