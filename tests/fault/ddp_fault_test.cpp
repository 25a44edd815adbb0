// A rank is killed or stopped at a random point of training with DistributedDataParallel: every survivor gets the right
// error for that rank out of forward or backward, in time, and nothing is left behind.
//
// Starting a process with libtorch takes longer than a point: each rank is a process that forks one child a point.

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <sstream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lockstep/core/base/environment.h"
#include "lockstep/core/comm/init.h"
#include "lockstep/core/store/tcp_store.h"
#include "lockstep/parallel/ddp/distributed_data_parallel.h"
#include "tests/support/dev_shm.h"
#include "tests/support/processes.h"

namespace lockstep {
namespace {

using support::Arguments;
using support::shared_memory_files;
using ::testing::HasSubstr;

constexpr int kRanks = 4;
constexpr int kSteps = 8;
constexpr int kTests = 10;

enum class Place { kForward, kGradient, kOptimizer, kAnytime };
enum class Feature { kPlain, kFindUnused, kStatic, kHook, kJoin, kNoSync };

/// Where a rank ends.
struct Point {
  int victim = 0;
  int step = 0;
  Place place = Place::kForward;
  int gradient = 0;  ///< kGradient: before this many of the step's gradients
  int delay_us = 0;  ///< kAnytime: after the step's beginning
  Feature feature = Feature::kPlain;
  std::string backend = "shm";
};

Point point_of(int test, int i, bool stops) {
  std::mt19937 random(static_cast<unsigned>(test * 1000 + i + (stops ? 500000 : 0)));
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  Point point;
  point.victim = below(kRanks);
  point.step = below(kSteps);
  point.place = static_cast<Place>(below(4));
  point.gradient = below(12);
  point.delay_us = below(4000);
  point.feature = static_cast<Feature>((test + i) % 6);
  point.backend = (test + i) % 5 == 3 ? "gloo" : (test + i) % 5 == 4 ? "hier" : "shm";
  return point;
}

std::ostream& operator<<(std::ostream& out, const Point& point) {
  return out << "victim " << point.victim << " step " << point.step << " place " << static_cast<int>(point.place)
             << " gradient " << point.gradient << " delay " << point.delay_us << " us feature "
             << static_cast<int>(point.feature) << " backend " << point.backend;
}

class NetImpl : public torch::nn::Module {
 public:
  NetImpl() {
    for (int i = 0; i < 5; ++i) layers_->push_back(torch::nn::Linear(32, 32));
    layers_->push_back(torch::nn::BatchNorm1d(32));
    layers_->push_back(torch::nn::Linear(32, 2000));
    register_module("layers", layers_);
    side = register_module("side", torch::nn::Linear(32, 32));
  }
  at::Tensor forward(const at::Tensor& x) {
    if (in_forward) in_forward();
    return layers_->forward(uses_side ? at::tanh(side(x)) : x);
  }

  torch::nn::Linear side{nullptr};
  bool uses_side = true;
  std::function<void()> in_forward;

 private:
  torch::nn::Sequential layers_;
};
TORCH_MODULE(Net);

/// One rank of a run, in the child of a point.
class Rank {
 public:
  Rank(const Point& point, std::shared_ptr<ProcessGroup> group, int signal)
      : point_(point), group_(std::move(group)), signal_(signal) {
    DdpOptions options{.bucket_cap_bytes = 5000, .first_bucket_bytes = 1};
    options.find_unused_parameters = point.feature == Feature::kFindUnused;
    options.static_graph = point.feature == Feature::kStatic;
    net_->uses_side = point.feature != Feature::kFindUnused || group_->rank() % 2 == 0;
    ddp_.emplace(net_, group_, options);
    if (point.feature == Feature::kHook) ddp_->register_comm_hook(bf16_compress_hook());
    if (group_->rank() != point.victim) return;
    net_->in_forward = [this] { end_at(Place::kForward); };
    for (const at::Tensor& parameter : net_->parameters()) {
      parameter.register_hook([this](const at::Tensor&) {
        if (++gradients_ > point_.gradient) end_at(Place::kGradient);
      });
    }
  }

  /// Until something fails. The victim's last gradient may come before the one that it waits for: then it ends here.
  void train() {
    if (point_.feature != Feature::kJoin) return loop(1000000);
    // Those of odd rank run out of inputs and answer for themselves until the end.
    const bool is_victim = group_->rank() == point_.victim;
    ddp_->join([&] { loop(group_->rank() % 2 == 0 || is_victim ? 1000000 : 3); });
  }

 private:
  void loop(int steps) {
    torch::optim::SGD optimizer(net_->parameters(), 0.01);
    for (step_ = 0; step_ < steps; ++step_) {
      gradients_ = 0;
      if (is_here(Place::kAnytime)) {
        std::thread([this] {
          std::this_thread::sleep_for(std::chrono::microseconds(point_.delay_us));
          ::kill(::getpid(), signal_);
        }).detach();
      }
      optimizer.zero_grad();
      if (point_.feature == Feature::kNoSync) {
        const auto guard = ddp_->no_sync();
        backward();
      }
      backward();
      end_at(Place::kOptimizer);
      optimizer.step();
    }
  }
  void backward() { ddp_->forward(at::ones({4, 32})).sum().backward(); }
  bool is_here(Place place) const {
    return group_->rank() == point_.victim && step_ == point_.step && point_.place == place;
  }
  void end_at(Place place) const {
    if (is_here(place)) ::kill(::getpid(), signal_);
  }

  const Point& point_;
  std::shared_ptr<ProcessGroup> group_;
  int signal_;
  Net net_;
  std::optional<DistributedDataParallel<Net>> ddp_;
  int step_ = 0;
  int gradients_ = 0;
};

std::shared_ptr<Store> connect(const RankEnvironment& environment) {
  const std::string address = environment_string("LOCKSTEP_STORE").value();
  return connect_tcp_store("127.0.0.1", std::stoi(address.substr(address.rfind(':') + 1)), environment.job_token,
                           Deadline::after(std::chrono::seconds(60)));
}

/// What a child says of its point: "name TYPE rank-or--1 text".
void report(const std::string& name, const char* type, int rank, const Error& error) {
  std::ostringstream text;
  text << name << ' ' << type << ' ' << rank << ' ' << error.what() << '\n';
  std::cout << text.str() << std::flush;
}

int run_child(const std::string& name, const Point& point, int signal, Duration timeout) {
  at::set_num_threads(1);
  const RankEnvironment environment = read_rank_environment();
  const auto store = connect(environment);
  InitOptions options{.backend = point.backend, .name = name, .timeout = timeout};
  if (point.backend == "hier") options.host_ids = {"first", "first", "second", "second"};
  const auto group =
      std::make_shared<ProcessGroup>(make_communicator(store, environment.rank, kRanks, options), environment, store);
  try {
    Rank(point, group, signal).train();
    return 1;
  } catch (const PeerError& error) {
    report(name, "PeerError", error.rank(), error);
  } catch (const TimeoutError& error) {
    report(name, "TimeoutError", error.waiting_for(), error);
  } catch (const AbortedError& error) {
    report(name, "AbortedError", -1, error);
  }
  try {
    group->barrier();
    return 1;
  } catch (const AbortedError&) {  // A failed group says so, at once.
  }
  // The end of a survivor must be nobody's error.
  store->set(name + "/told/" + std::to_string(environment.rank), "");
  for (int rank = 0; rank < kRanks; ++rank) {
    if (rank == point.victim) continue;
    store->wait(name + "/told/" + std::to_string(rank), Deadline::after(std::chrono::seconds(30)));
  }
  return 0;
}

/// Forks a child for each of the points, all at once.
LOCKSTEP_WORKER(trains_until_somebody_fails) {
  const int test = std::stoi(arguments[0]);
  const int first = std::stoi(arguments[1]);
  const int count = std::stoi(arguments[2]);
  const int signal = std::stoi(arguments[3]);
  const Duration timeout = signal == SIGSTOP ? Duration(std::chrono::seconds(5)) : Duration(std::chrono::minutes(10));
  std::vector<pid_t> children;
  for (int i = first; i < first + count; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      int code = support::kThrew;
      const std::string name = "p" + std::to_string(i);
      try {
        code = run_child(name, point_of(test, i, signal == SIGSTOP), signal, timeout);
      } catch (const std::exception& error) {
        std::cerr << name << " threw: " << error.what() << std::endl;
      }
      std::_Exit(code);
    }
    children.push_back(child);
  }
  const RankEnvironment environment = read_rank_environment();
  std::shared_ptr<Store> store;
  if (signal == SIGSTOP) store = connect(environment);
  for (int k = 0; k < count; ++k) {
    const std::string name = "p" + std::to_string(first + k);
    const Point point = point_of(test, first + k, signal == SIGSTOP);
    const bool is_victim = environment.rank == point.victim;
    for (int rank = 0; signal == SIGSTOP && is_victim && rank < kRanks; ++rank) {
      if (rank != point.victim)
        store->wait(name + "/told/" + std::to_string(rank), Deadline::after(std::chrono::seconds(60)));
    }
    const pid_t child = children[static_cast<std::size_t>(k)];
    if (signal == SIGSTOP && is_victim) ::kill(child, SIGKILL);
    int status = 0;
    if (::waitpid(child, &status, 0) != child) return 2;
    std::cout << name << " END " << (WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status)) << std::endl;
  }
  return 0;
}

void expect_survivors_say(const support::ProcessResult& result, const std::string& name, const Point& point,
                          const std::string& type) {
  for (const auto& end : result.ranks) {
    std::istringstream lines(end.out);
    std::string told, ended;
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with(name + " END "))
        ended = line.substr(name.size() + 5);
      else if (line.starts_with(name + " "))
        told = line.substr(name.size() + 1);
    }
    std::ostringstream where;
    where << name << ": " << point << ": rank " << end.rank << " said: " << told << "\n" << end.err;
    EXPECT_EQ(ended, end.rank == point.victim ? std::to_string(-SIGKILL) : "0") << where.str();
    if (end.rank == point.victim) continue;
    EXPECT_THAT(told, ::testing::StartsWith(type + " " + std::to_string(point.victim) + " ")) << where.str();
  }
}

void run_points(int test, int count, int at_once, int signal, const std::string& type) {
  const auto before = shared_memory_files();
  support::ProcessOptions options;
  options.deadline = std::chrono::seconds(100);
  for (int first = 0; first < count; first += at_once) {
    const int n = std::min(at_once, count - first);
    const auto result = support::run_processes(
        kRanks, "trains_until_somebody_fails",
        {std::to_string(test), std::to_string(first), std::to_string(n), std::to_string(signal)}, options);
    ASSERT_TRUE(result.ok()) << result;
    for (int i = first; i < first + n; ++i) {
      expect_survivors_say(result, "p" + std::to_string(i), point_of(test, i, signal == SIGSTOP), type);
    }
  }
  EXPECT_EQ(shared_memory_files(), before);
}

class DdpFault : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Points, DdpFault, ::testing::Range(0, kTests));

TEST_P(DdpFault, AKilledRankIsNamedByEverySurvivor) {
  run_points(GetParam(), LOCKSTEP_FAULT_KILLS, 9, SIGKILL, "PeerError");
}

TEST_P(DdpFault, AStoppedRankIsNamedAtTheDeadline) {
  run_points(GetParam(), LOCKSTEP_FAULT_STOPS, 6, SIGSTOP, "TimeoutError");
}

}  // namespace
}  // namespace lockstep
