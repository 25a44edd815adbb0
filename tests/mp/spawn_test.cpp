#include "lockstep/core/launch/spawn.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/store/tcp_store.h"
#include "tests/support/processes.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;

void require(bool condition, const char* what) {
  if (!condition) throw std::runtime_error(what);
}

/// Each rank leaves its number in the store and adds up everybody's.
void meet(int rank, int world_size) {
  const RankEnvironment environment = read_rank_environment();
  require(environment.source == "lockstep", "the environment is not lockstep's");
  require(environment.rank == rank && environment.world_size == world_size, "RANK or WORLD_SIZE");
  require(environment.local_rank == rank && environment.local_world_size == world_size, "LOCAL_RANK");
  const std::string address = environment_string("LOCKSTEP_STORE").value();
  const Deadline deadline = Deadline::after(std::chrono::seconds(30));
  const auto store = connect_tcp_store("127.0.0.1", std::stoi(address.substr(address.rfind(':') + 1)),
                                       environment.job_token, deadline);
  store->set("rank" + std::to_string(rank), std::to_string(rank));
  int sum = 0;
  for (int peer = 0; peer < world_size; ++peer) sum += std::stoi(store->get("rank" + std::to_string(peer), deadline));
  require(sum == world_size * (world_size - 1) / 2, "the sum of the ranks");
}

TEST(Spawn, WorkersMeetInTheirStore) {
  for (const int world_size : {1, 2, 5}) EXPECT_NO_THROW(spawn(meet, world_size)) << world_size;
}

TEST(Spawn, LeavesThisProcessAsItWas) {
  const pid_t here = ::getpid();
  spawn([here](int, int) { require(::getpid() != here, "this is the caller"); }, 2);
  EXPECT_EQ(::getpid(), here);
  EXPECT_EQ(environment_string("LOCKSTEP_STORE"), std::nullopt);
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "a child is left";
}

TEST(Spawn, GivesTheCallerTheTextOfAnException) {
  try {
    spawn(
        [](int rank, int) {
          if (rank == 1) throw std::runtime_error("the batch is empty");
          ::pause();
        },
        3);
    FAIL() << "nothing was thrown";
  } catch (const WorkerError& error) {
    EXPECT_EQ(error.rank(), 1);
    EXPECT_EQ(error.exit_code(), 1);
    EXPECT_EQ(error.signal(), 0);
    EXPECT_EQ(error.worker_text(), "the batch is empty");
    EXPECT_THAT(error.what(), AllOf(HasSubstr("worker rank 1"), HasSubstr("threw: the batch is empty")));
  }
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "a child is left";
}

TEST(Spawn, AnExceptionsTextHasABound) {
  try {
    spawn([](int, int) { throw std::runtime_error(std::string(1 << 20, 'x')); }, 1);
    FAIL() << "nothing was thrown";
  } catch (const WorkerError& error) {
    EXPECT_EQ(error.worker_text(), std::string(16 << 10, 'x'));
  }
}

TEST(Spawn, SaysWhichSignalEndedAWorker) {
  try {
    spawn(
        [](int rank, int) {
          if (rank == 0) ::kill(::getpid(), SIGKILL);
          ::pause();
        },
        2);
    FAIL() << "nothing was thrown";
  } catch (const WorkerError& error) {
    EXPECT_EQ(error.rank(), 0);
    EXPECT_EQ(error.signal(), SIGKILL);
    EXPECT_THAT(error.what(), HasSubstr("died of signal 9 (SIGKILL)"));
  }
}

TEST(Spawn, AnExitCodeIsAFailure) {
  try {
    spawn([](int, int) { ::_exit(4); }, 1);
    FAIL() << "nothing was thrown";
  } catch (const WorkerError& error) {
    EXPECT_EQ(error.exit_code(), 4);
    EXPECT_EQ(error.worker_text(), "");
  }
}

TEST(Spawn, KillsAWorkerThatOutlivesTheGrace) {
  SpawnOptions options;
  options.grace = std::chrono::milliseconds(200);
  const auto work = [](int rank, int) {
    ::signal(SIGTERM, SIG_IGN);
    if (rank == 1) throw std::runtime_error("first");
    for (;;) ::pause();
  };
  EXPECT_THROW(spawn(work, 2, options), WorkerError);
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "a child is left";
}

TEST(Spawn, TheTimeoutNamesWhoIsLeft) {
  SpawnOptions options;
  options.timeout = std::chrono::seconds(5);  // In which two ranks surely return.
  try {
    spawn(
        [](int rank, int) {
          if (rank == 1) ::pause();
        },
        3, options);
    FAIL() << "nothing was thrown";
  } catch (const TimeoutError& error) {
    EXPECT_EQ(error.waiting_for(), 1);
    EXPECT_THAT(error.what(), HasSubstr("rank 1 of 3 had not returned after 5 s"));
  }
}

TEST(Spawn, RefusesAProcessWithThreads) {
  std::atomic<bool> done{false};
  std::thread other([&] { done.wait(false); });
  try {
    spawn([](int, int) {}, 2);
    ADD_FAILURE() << "a process with two threads was forked";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("threads"), HasSubstr("before anything starts threads")));
  }
  done = true;
  done.notify_all();
  other.join();
}

// The kernel lists a thread for a moment after it was joined; one that is about to end stands for it here.
// It is detached: one that nobody has joined yet is a leak to a thread sanitizer in the forked processes.
TEST(Spawn, WaitsForAThreadThatIsAboutToEnd) {
  std::thread([] { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }).detach();
  EXPECT_NO_THROW(spawn([](int, int) {}, 2));
}

TEST(Spawn, RefusesAWorldOfNobody) {
  EXPECT_THROW(spawn([](int, int) {}, 0), UsageError);
  EXPECT_THROW(spawn(nullptr, 1), UsageError);
}

}  // namespace
}  // namespace lockstep
