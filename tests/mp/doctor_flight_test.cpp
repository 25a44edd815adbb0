// `lockstep doctor flight` on what real jobs leave behind when they fail.

#include <signal.h>
#include <time.h>

#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/comm/init.h"
#include "lockstep/core/io/file.h"
#include "tests/mp/lockstep_program.h"

namespace lockstep::mp {
namespace {

using support::ProcessResult;
using testing::AllOf;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;
using testing::StartsWith;

std::int64_t recorder_clock_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/// The ranks do a broadcast and an all_reduce. The last of them does something else in place of the all_reduce, once
/// all others are in it; arguments[0] says what.
LOCKSTEP_WORKER(the_last_rank_misses_an_all_reduce) {
  const Job job = init_from_environment();
  Communicator& communicator = *job.communicator;
  const int rank = communicator.rank();
  const int last = communicator.world_size() - 1;
  std::vector<float> data(5, 1.0f);
  const auto all_reduce = [&] {
    return communicator.all_reduce_async(data.data(), data.data(), data.size(), DType::kFloat32, ReduceOp::kSum,
                                         {.timeout = {}, .label = "bucket 2"});
  };
  // Where the others are is told through the store, so that each run leaves the same records.
  const auto say = [&](const std::string& what) { job.store->set(what + std::to_string(rank), ""); };
  const auto others = [&](const std::string& what) {
    for (int peer = 0; peer < last; ++peer) {
      job.store->get(what + std::to_string(peer), Deadline::after(std::chrono::seconds(30)));
    }
  };
  try {
    communicator.broadcast(data.data(), data.size(), DType::kFloat32, 0, {.timeout = std::chrono::seconds(60)});
    if (rank != last) {
      say("arrived");
      others("arrived");
      Work work = all_reduce();
      say("started");
      others("started");
      work.wait();
      return 1;
    }
    others("started");
    if (arguments[0] == "stays_away") {
      others("failed");
      return 0;
    }
    if (arguments[0] == "comes_late") {
      others("failed");
      const std::int64_t then = recorder_clock_ms();
      while (recorder_clock_ms() == then) {  // The clock of the records is coarse: late is a tick later.
      }
      all_reduce().wait();
    } else if (arguments[0] == "is_killed") {
      ::raise(SIGKILL);
    }
    if (arguments[0] == "aborts") communicator.abort("the disk is full");
    communicator.barrier();
  } catch (const Error&) {
    say("failed");
    return 0;
  }
  return 1;
}

/// A job that fails in that way, and what the doctor says of the records it left.
class DoctorFlight : public testing::Test {
 protected:
  void fail(const std::string& what, const std::string& timeout_seconds) {
    ProcessOptions options;
    options.environment = {{"LOCKSTEP_FLIGHT_DIR", directory_.path()}, {"LOCKSTEP_TIMEOUT", timeout_seconds}};
    const ProcessResult job = support::run_processes(3, "the_last_rank_misses_an_all_reduce", {what}, options);
    EXPECT_FALSE(job.deadline_passed) << job;
    for (const ProcessEnd& end : job.ranks) {
      EXPECT_EQ(end.signal, what == "is_killed" && end.rank == 2 ? SIGKILL : 0) << job;
      EXPECT_EQ(end.exit_code, 0) << job;
    }
  }
  ProcessEnd doctor(const Arguments& flags = {}) const {
    Arguments argv = {LOCKSTEP_PROGRAM, "doctor", "flight", directory_.path()};
    argv.insert(argv.end(), flags.begin(), flags.end());
    return support::run_program(argv);
  }
  /// The doctor's output after the job failed in that way; it must have read everything.
  std::string said_after(const std::string& what, const std::string& timeout_seconds = "60") {
    fail(what, timeout_seconds);
    const ProcessEnd end = doctor();
    EXPECT_EQ(end.exit_code, 0);
    EXPECT_EQ(end.err, "");
    return end.out;
  }
  const std::string& directory() const { return directory_.path(); }

 private:
  io::TempDirectory directory_{"flight"};
};

TEST_F(DoctorFlight, ARankThatStaysAwayLeavesNoRecord) {
  const std::string said = said_after("stays_away", "2");
  EXPECT_THAT(said, StartsWith("group world (3 ranks): rank 2 left no record: it was killed, or still runs, or never "
                               "failed; ranks 0, 1 waited in all_reduce #2 (5 f32, sum, bucket 2)\n"));
  EXPECT_THAT(said, AllOf(HasSubstr("\n  rank  last finished  in flight, for "),
                          HasSubstr("\n     0  broadcast #1   all_reduce #2, "),
                          HasSubstr("rank 1/3 group world: all_reduce #2 (5 f32, sum, bucket 2)"),
                          HasSubstr("\n  no record: rank 2\n")));
}

TEST_F(DoctorFlight, ARankThatComesLate) {
  EXPECT_THAT(
      said_after("comes_late", "2"),
      MatchesRegex("group world \\(3 ranks\\): rank 2 came to all_reduce #2 \\(5 f32, sum, bucket 2\\), in which "
                   "ranks 0, 1 waited, only [0-9.]+ m?s after rank [01] had given up; rank 2 was last in "
                   "broadcast #1 \\(finished [0-9.]+ m?s before the others gave up\\)\n(.|\n)*"));
}

TEST_F(DoctorFlight, ARankThatIsKilled) {
  EXPECT_THAT(said_after("is_killed"), StartsWith("group world (3 ranks): rank 2 left no record: "));
}

TEST_F(DoctorFlight, RanksThatCallDifferentOperations) {
  EXPECT_THAT(said_after("calls_another"),
              StartsWith("group world (3 ranks): the ranks called different operations as #2: ranks 0, 1 all_reduce (5 "
                         "f32, sum, bucket 2); rank 2 barrier\n"));
}

TEST_F(DoctorFlight, AnAbort) {
  EXPECT_THAT(said_after("aborts"),
              StartsWith("group world (3 ranks): rank 2 ended the group, the others followed; its "
                         "cause: the disk is full\n"));
}

TEST_F(DoctorFlight, AFileThatIsNotValidIsNamedAndTheOthersAreShown) {
  fail("calls_another", "60");
  const std::string broken = directory() + "/flight_world_rank1.json";
  std::filesystem::resize_file(broken, std::filesystem::file_size(broken) / 2);
  const ProcessEnd end = doctor();
  EXPECT_EQ(end.exit_code, 1);
  EXPECT_THAT(end.err, StartsWith("lockstep doctor flight: " + broken + ": not a complete JSON file, wrong at byte "));
  EXPECT_THAT(end.out, AllOf(HasSubstr("different operations as #2"), HasSubstr("\n  no record: rank 1\n")));
  const ProcessEnd json = doctor({"--json"});
  EXPECT_EQ(json.exit_code, 1);
  EXPECT_THAT(json.out,
              AllOf(HasSubstr("{\"finding\":\"corrupt_file\",\"file\":\"" + broken + "\",\"offset\":"),
                    HasSubstr("\n{\"finding\":\"mismatch\",\"group\":\"world\",\"world_size\":3,"),
                    HasSubstr("\n{\"finding\":\"no_record\",\"group\":\"world\",\"world_size\":3,\"ranks\":[1],"),
                    Not(HasSubstr("in flight, for"))));
}

TEST_F(DoctorFlight, AFolderWithoutRecordsIsAUsageError) {
  const ProcessEnd end = doctor();
  EXPECT_EQ(end.exit_code, 2);
  EXPECT_EQ(end.out, "");
  EXPECT_THAT(end.err, AllOf(HasSubstr(directory()), HasSubstr("LOCKSTEP_FLIGHT_DIR")));
}

}  // namespace
}  // namespace lockstep::mp
