// A rank is killed or stopped at a random point of a run of random operations, between two of them or inside of one:
// every survivor gets the right error for the right rank, in time, and nothing is left behind.

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/comm/init.h"
#include "tests/support/dev_shm.h"
#include "tests/support/processes.h"
#include "tests/support/random_operations.h"

namespace lockstep {
namespace {

using support::Arguments;
using support::ProcessOptions;
using support::ProcessResult;
using support::RandomOperations;
using support::RandomOptions;
using support::shared_memory_files;
using ::testing::HasSubstr;

constexpr int kRanks = 4;

/// Where a rank ends, and what the run is made of.
struct Point {
  unsigned seed = 0;
  int victim = 0;
  std::uint64_t step = 0;
  int delay_us = -1;  ///< after the beginning of the step; -1: right before it
  int signal = SIGKILL;
  bool subgroups = false;
  bool changing_groups = false;
  bool messages = false;

  Arguments arguments() const {
    return {std::to_string(seed),
            std::to_string(victim),
            std::to_string(step),
            std::to_string(delay_us),
            std::to_string(signal),
            std::to_string(subgroups),
            std::to_string(changing_groups),
            std::to_string(messages)};
  }
  static Point parse(const Arguments& a) {
    return {static_cast<unsigned>(std::stoul(a[0])),
            std::stoi(a[1]),
            std::stoull(a[2]),
            std::stoi(a[3]),
            std::stoi(a[4]),
            a[5] == "1",
            a[6] == "1",
            a[7] == "1"};
  }
};

std::ostream& operator<<(std::ostream& out, const Point& p) {
  out << "seed " << p.seed << " victim " << p.victim << " step " << p.step << " delay " << p.delay_us << " us signal "
      << p.signal << " subgroups " << p.subgroups << " changing " << p.changing_groups << " messages " << p.messages;
  return out;
}

/// A clock that all processes of the host share.
long long now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<long long>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

void end_here(int signal) {
  char text[64];
  const int n = std::snprintf(text, sizeof text, "ENDS %lld\n", now_ns());
  if (::write(STDOUT_FILENO, text, static_cast<std::size_t>(n)) == n) ::kill(::getpid(), signal);
}

/// What was in flight when the victim stopped is no older than this many steps.
constexpr std::uint64_t kOldest = 20;
/// What survivors wait for, once the victim is stopped: operations with it fail at a short deadline, later ones later,
/// so that the first to fail are those that wait for the victim itself and not for a rank that waits for it.
constexpr auto kStopDeadline = std::chrono::milliseconds(LOCKSTEP_FAULT_STOP_MS);

RandomOptions options_for(const Point& point) {
  RandomOptions options;
  options.messages = point.messages;
  options.subgroups = point.subgroups;
  options.changing_groups = point.changing_groups;
  options.max_groups = 4;
  if (point.signal != SIGSTOP) return options;
  options.timeout = [point](std::uint64_t step, const std::vector<int>& ranks) -> std::optional<Duration> {
    if (step + kOldest < point.step || std::ranges::find(ranks, point.victim) == ranks.end()) return std::nullopt;
    return kStopDeadline + static_cast<int>(step > point.step ? step - point.step : 0) * kStopDeadline / 8;
  };
  return options;
}

/// "ERROR type rank-in-the-world nanoseconds", and the text on stderr.
int report(RandomOperations& run, const char* type, int rank, const Error& error) {
  const long long at = now_ns();
  Communicator& group = *run.failed_group();
  const int who = rank < 0 ? -1 : group.global_rank(rank);
  std::cout << "ERROR " << type << ' ' << who << ' ' << at << std::endl;
  std::cerr << run.doing() << ": " << error.what() << std::endl;
  // What a program does: its other groups must not wait for a rank that has given up. The first cause goes on.
  std::string cause = std::string("a survivor's ") + type + " of rank " + std::to_string(who);
  const std::string text = error.what();
  if (const auto told = text.find("a survivor's "); told != std::string::npos) cause = text.substr(told);
  run.abort(cause);
  try {
    group.barrier();
    return 1;
  } catch (const PeerError& peer) {
    // What failed was the making of a group; that its parent has failed too is heard here first.
    if (group.global_rank(peer.rank()) != who) return 1;
  } catch (const AbortedError&) {
  }
  try {
    group.barrier();
  } catch (const AbortedError&) {
    return 0;  // A failed communicator says so, at once.
  }
  return 1;
}

LOCKSTEP_WORKER(operations_until_somebody_fails) {
  const Point point = Point::parse(arguments);
  InitOptions options;
  // That a dead peer is noticed has nothing to do with deadlines.
  options.timeout = std::chrono::minutes(10);
  options.init_timeout = std::chrono::minutes(10);
  const Job job = init_from_environment(options);
  const bool is_victim = job.communicator->rank() == point.victim;
  std::optional<RandomOperations> run;
  try {
    run.emplace(job.communicator, point.seed, options_for(point));
    for (std::uint64_t step = 1; step < 1000000; ++step) {
      if (is_victim && step == point.step) {
        if (point.delay_us < 0) end_here(point.signal);
        std::thread([&point] {
          std::this_thread::sleep_for(std::chrono::microseconds(point.delay_us));
          end_here(point.signal);
        }).detach();
      }
      run->step();
    }
  } catch (const PeerError& error) {
    return report(*run, "PeerError", error.rank(), error);
  } catch (const TimeoutError& error) {
    return report(*run, "TimeoutError", error.waiting_for(), error);
  } catch (const AbortedError& error) {
    return report(*run, "AbortedError", -1, error);
  }
  return 1;
}

/// Time from the victim's end to the survivors' errors; the largest of a test is printed.
class Latency {
 public:
  void add(const ProcessResult& result, int victim) {
    const auto& end = result.ranks[static_cast<std::size_t>(victim)];
    const long long ended = number_after(end.out, "ENDS ", 0);
    for (const auto& survivor : result.ranks) {
      if (survivor.rank == victim) continue;
      const double ms = static_cast<double>(number_after(survivor.out, "ERROR ", 2) - ended) / 1e6;
      largest_ms_ = std::max(largest_ms_, ms);
      sum_ms_ += ms;
      ++n_;
    }
  }
  void print(const char* what) const {
    std::cout << what << ": " << n_ << " errors after " << sum_ms_ / n_ << " ms on average, " << largest_ms_
              << " ms at most" << std::endl;
    ::testing::Test::RecordProperty("largest_ms", std::to_string(largest_ms_));
  }

 private:
  /// The number that stands `words` words after `key`.
  static long long number_after(const std::string& text, const std::string& key, int words) {
    std::size_t at = text.find(key);
    if (at == std::string::npos) return 0;
    at += key.size();
    for (; words > 0; --words) at = text.find(' ', at) + 1;
    return std::stoll(text.substr(at));
  }
  double largest_ms_ = 0;
  double sum_ms_ = 0;
  int n_ = 0;
};

ProcessResult run(const Point& point) {
  ProcessOptions options;
  options.deadline = std::chrono::seconds(60);
  int reports = 0;
  options.on_line = [&](launch::Supervisor& supervisor, const launch::OutputLine& line) {
    // A stopped process never ends by itself: once all survivors have spoken, it may go.
    if (line.text.substr(0, 6) == "ERROR " && ++reports == kRanks - 1) supervisor.signal(point.victim, SIGKILL);
  };
  return support::run_processes(kRanks, "operations_until_somebody_fails", point.arguments(), options);
}

/// Each survivor names the victim by the error's type and rank. Where groups overlap, a rank may wait for one that has
/// been told already and ended everything: it gets AbortedError with what that one saw.
void expect_survivors_say(const ProcessResult& result, const Point& point, const std::string& type) {
  EXPECT_FALSE(result.deadline_passed) << result;
  const std::string name = type + " " + std::to_string(point.victim);
  int told_directly = 0;
  for (const auto& end : result.ranks) {
    if (end.rank == point.victim) {
      EXPECT_EQ(end.signal, SIGKILL) << result;
      continue;
    }
    EXPECT_TRUE(end.ok()) << result;
    const bool directly = end.out.find("ERROR " + name + " ") != std::string::npos;
    told_directly += directly ? 1 : 0;
    if (directly || !point.subgroups) {
      EXPECT_THAT(end.out, HasSubstr("ERROR " + name + " ")) << result;
    } else {
      EXPECT_THAT(end.out, HasSubstr("ERROR AbortedError -1 ")) << result;
      EXPECT_THAT(end.err, HasSubstr("a survivor's " + type + " of rank " + std::to_string(point.victim))) << result;
    }
  }
  EXPECT_GE(told_directly, 1) << result;
}

/// The i-th point of a test: alone, with messages, with groups, with groups that come and go; between two operations or
/// inside of one.
Point point_of(int test, int i, int signal) {
  std::mt19937 random(static_cast<unsigned>(test * 1000 + i + (signal == SIGSTOP ? 500000 : 0)));
  Point point;
  point.seed = static_cast<unsigned>(random());
  point.victim = static_cast<int>(random() % kRanks);
  point.step = 1 + random() % 60;
  point.delay_us = i % 2 == 0 ? -1 : static_cast<int>(random() % (signal == SIGSTOP ? 300 : 3000));
  point.signal = signal;
  point.messages = i / 2 % 4 != 0;
  point.subgroups = i / 2 % 4 >= 2;
  point.changing_groups = i / 2 % 4 == 3 && signal == SIGKILL;
  return point;
}

class CollectivesFault : public ::testing::TestWithParam<int> {};

TEST_P(CollectivesFault, AKilledRankIsNamedByEverySurvivor) {
  const auto before = shared_memory_files();
  Latency latency;
  for (int i = 0; i < LOCKSTEP_FAULT_KILLS; ++i) {
    const Point point = point_of(GetParam(), i, SIGKILL);
    std::ostringstream trace;
    trace << point;
    SCOPED_TRACE(trace.str());
    const ProcessResult result = run(point);
    expect_survivors_say(result, point, "PeerError");
    latency.add(result, point.victim);
  }
  latency.print("killed");
  EXPECT_EQ(shared_memory_files(), before);
}

TEST_P(CollectivesFault, AStoppedRankIsNamedAtTheDeadline) {
  const auto before = shared_memory_files();
  Latency latency;
  for (int i = 0; i < LOCKSTEP_FAULT_STOPS; ++i) {
    const Point point = point_of(GetParam(), i, SIGSTOP);
    std::ostringstream trace;
    trace << point;
    SCOPED_TRACE(trace.str());
    const ProcessResult result = run(point);
    expect_survivors_say(result, point, "TimeoutError");
    latency.add(result, point.victim);
  }
  latency.print("stopped");
  EXPECT_EQ(shared_memory_files(), before);
}

INSTANTIATE_TEST_SUITE_P(Points, CollectivesFault, ::testing::Range(0, 10));

}  // namespace
}  // namespace lockstep
