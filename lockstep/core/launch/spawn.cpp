// The workers are forked first and the store, which has a thread, is started second; its address reaches the workers,
// who wait for it, through a pipe. A second pipe carries the text of an exception back.

#include "lockstep/core/launch/spawn.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <thread>
#include <vector>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/io/socket.h"
#include "lockstep/core/launch/random_id.h"
#include "lockstep/core/launch/supervisor.h"
#include "lockstep/core/launch/worker_plan.h"
#include "lockstep/core/store/tcp_store.h"

namespace lockstep {
namespace {

constexpr const char* kLoopback = "127.0.0.1";
constexpr std::size_t kLongestText = 16 << 10;  // fits into a pipe, so that nobody has to read for the worker to end

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    LS_SYSCALL(::pipe2(ends.data(), O_CLOEXEC), "spawn: can't make a pipe");
    in.reset(ends[0]);
    out.reset(ends[1]);
  }
  io::UniqueFd in;
  io::UniqueFd out;
};

/// Between the caller and one worker.
struct Channel {
  Pipe address;  ///< of the store, to the worker
  Pipe text;     ///< of an exception, to the caller
};

std::string read_all(const io::UniqueFd& fd) {
  std::string out;
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return out;
    out.append(buffer.data(), static_cast<std::size_t>(n));
  }
}

void write_text(const io::UniqueFd& fd, std::string_view text) {
  [[maybe_unused]] const ssize_t n = ::write(fd.get(), text.data(), std::min(text.size(), kLongestText));
}

/// The OpenMP library, where this program has one, read its environment when it was loaded.
void set_openmp_threads(int threads) {
  using SetThreads = void (*)(int);
  if (auto* const set = reinterpret_cast<SetThreads>(::dlsym(RTLD_DEFAULT, "omp_set_num_threads"))) set(threads);
}

int count_threads() {
  int threads = 0;
  for ([[maybe_unused]] const auto& task : std::filesystem::directory_iterator("/proc/self/task")) ++threads;
  return threads;
}

void require_no_threads() {
#if defined(__SANITIZE_THREAD__)
  constexpr int kOwn = 2;  // the sanitizer has a thread of its own, which it stops for a fork
#else
  constexpr int kOwn = 1;
#endif
  // The kernel lists a thread for a moment after it was joined.
  const Deadline patience = Deadline::after(std::chrono::milliseconds(200));
  int threads = count_threads();
  while (threads > kOwn && !patience.passed()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    threads = count_threads();
  }
  LS_REQUIRE(threads <= kOwn, "spawn: this process has ", threads,
             " threads, and a fork copies only one; call spawn() ",
             "before anything starts threads (torch operations do), or use `lockstep run`");
}

class Spawn {
 public:
  Spawn(const std::function<void(int, int)>& fn, int world_size, const SpawnOptions& options)
      : fn_(fn),
        timeout_(options.timeout),
        channels_(static_cast<std::size_t>(world_size)),
        supervisor_(supervision(options)) {
    plan_.local_world_size = plan_.world_size = world_size;
    plan_.master_port = io::Listener(kLoopback, 0).port();
    plan_.job_token = launch::random_hex(16);
    plan_.run_id = launch::random_hex(4);
    plan_.pin = options.pin;
    plan_.set_threads = !environment_string("OMP_NUM_THREADS");
  }

  void run() {
    // What is buffered now would otherwise be printed by every worker as well.
    std::cout.flush();
    std::fflush(nullptr);
    for (const launch::WorkerPlan& plan : launch::plan_workers(plan_, base::read_cpu_budget())) start(plan);
    TcpStoreServerOptions server_options;
    server_options.token = plan_.job_token;
    TcpStoreServer server(server_options);
    const std::string address = io::host_and_port(kLoopback, server.port());
    for (Channel& channel : channels_) {
      write_text(channel.address.out, address);
      channel.address.out.reset();
      channel.text.out.reset();
    }
    judge(supervisor_.run());
  }

 private:
  static launch::SupervisorOptions supervision(const SpawnOptions& options) {
    launch::SupervisorOptions out;
    out.grace = options.grace;
    if (options.timeout != Duration::max()) out.deadline = Deadline::after(options.timeout);
    return out;
  }

  void start(const launch::WorkerPlan& plan) {
    launch::WorkerSpec spec;
    spec.rank = spec.local_rank = plan.rank;
    spec.child.function = [this, plan] { return work(plan); };
    spec.child.cpus = plan.cpus;
    spec.child.own_group = false;  // Ctrl-C in a terminal reaches caller and workers alike
    spec.out.capture = spec.err.capture = false;
    supervisor_.start(std::move(spec));
  }

  /// In the worker.
  int work(const launch::WorkerPlan& plan) {
    supervisor_.abandon();
    Channel mine = std::move(channels_[static_cast<std::size_t>(plan.rank)]);
    channels_.clear();
    mine.address.out.reset();
    const std::string address = read_all(mine.address.in);
    if (address.empty()) return EXIT_FAILURE;  // the caller could not start the others
    for (const auto& [name, value] : plan.environment) ::setenv(name.c_str(), value.c_str(), 1);
    ::setenv("LOCKSTEP_STORE", address.c_str(), 1);
    if (plan_.set_threads) set_openmp_threads(plan.threads);
    int code = EXIT_SUCCESS;
    try {
      fn_(plan.rank, plan_.world_size);
    } catch (const std::exception& error) {
      code = EXIT_FAILURE;
      write_text(mine.text.out, error.what());
    } catch (...) {
      code = EXIT_FAILURE;
      write_text(mine.text.out, "an exception that is no std::exception");
    }
    std::cout.flush();
    std::fflush(nullptr);
    return code;
  }

  void judge(const launch::RunEnd& run) {
    if (run.first_failure) {
      const launch::WorkerEnd& end = run.workers[*run.first_failure];
      const io::UniqueFd& text_end = channels_[*run.first_failure].text.in;
      ::fcntl(text_end.get(), F_SETFL, O_NONBLOCK);  // something that the worker started may hold it open
      const std::string text = read_all(text_end);
      const std::string what =
          text.empty() ? describe(end) : base::cat("worker rank ", end.rank, " (pid ", end.pid, ") threw: ", text);
      throw WorkerError("spawn: " + what, end.rank, end.exit_code, end.signal, text);
    }
    if (!run.deadline_passed) return;
    std::string names;
    int first = -1;
    for (const launch::WorkerEnd& end : run.workers) {
      if (!end.told_to) continue;
      if (first < 0) first = end.rank;
      names += base::cat(names.empty() ? "" : ", ", end.rank);
    }
    throw TimeoutError(base::cat("spawn: rank ", names, " of ", plan_.world_size, " had not returned after ",
                                 seconds(timeout_), " s; killed"),
                       first);
  }

  const std::function<void(int, int)>& fn_;
  Duration timeout_;
  launch::PlanOptions plan_;
  std::vector<Channel> channels_;
  launch::Supervisor supervisor_;
};

}  // namespace

void spawn(const std::function<void(int rank, int world_size)>& fn, int world_size, const SpawnOptions& options) {
  LS_REQUIRE(world_size > 0, "spawn: world_size is ", world_size, "; expected 1 or more");
  LS_REQUIRE(fn != nullptr, "spawn: the function is empty");
  require_no_threads();
  Spawn(fn, world_size, options).run();
}

}  // namespace lockstep
