// The mpi transport under both mpiruns: one program that is linked with no MPI (this one), and one that owns MPI.

#include "lockstep/core/backend/mpi/mpi_transport.h"

#include <unistd.h>

#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"
#include "tests/mp/mpi_exchanges.h"
#include "tests/support/processes.h"

namespace lockstep {
namespace {

using mpi::make_mpi_transport;
using mpi::MpiOptions;
using support::Arguments;
using support::ProcessEnd;
using testing::HasSubstr;

Meeting world_meeting() {
  const RankEnvironment environment = read_rank_environment();
  return {"world", environment.rank, environment.world_size, Deadline::after(std::chrono::seconds(50)), {}};
}

void refuse_another_size(Meeting meeting) {
  meeting.world_size += 1;
  std::string text = "no error";
  try {
    make_mpi_transport(meeting);
  } catch (const UsageError& error) {
    text = error.what();
  }
  LS_CHECK(text.find("was the program started by that MPI's own mpirun?") != std::string::npos, text);
}

LOCKSTEP_WORKER(mpi_exchanges) {
  const Meeting meeting = world_meeting();
  refuse_another_size(meeting);
  auto world = make_mpi_transport(meeting);
  mp::exchange_everything(*world);
  auto second = make_mpi_transport(meeting);
  mp::exchange_on_both(*world, *second);
  const auto pending = mp::leave_a_receive(*world);  // goes before its transport, as its docstring says
  mp::send_and_leave(std::move(second));
  return 0;
}

LOCKSTEP_WORKER(mpi_groups) {
  const Meeting meeting = world_meeting();
  const int last = meeting.world_size - 1;
  for (int round = 0; round < 3;
       ++round) {  // the communicators of ended groups are freed, and their numbers used again
    auto world = make_mpi_transport(meeting);
    MpiOptions options;
    options.members = {last, 0};
    if (meeting.rank == 0 || meeting.rank == last) {
      const Meeting pair = {"pair", meeting.rank == last ? 0 : 1, 2, meeting.deadline, {}};
      mp::exchange_everything(*make_mpi_transport(pair, options));
    }
    mp::exchange_on_both(*world, *world);
    mp::send_to_those_that_left(std::move(world));
  }
  return 0;
}

/// Rank 1 never comes to the world's group.
LOCKSTEP_WORKER(mpi_rank_missing) {
  Meeting meeting = world_meeting();
  if (meeting.rank == 1) {
    const auto alone = make_mpi_transport({"alone", 0, 1, meeting.deadline, {}}, {{}, {1}});
    support::say_ready();
    ::pause();
  }
  meeting.deadline = Deadline::after(std::chrono::milliseconds(200));
  make_mpi_transport(meeting);
  return 0;
}

/// One MPI: its launcher, and the program of the tests that is linked with it.
struct Mpi {
  const char* name;
  Arguments launcher;  ///< empty where it is not installed
  const char* owner;
  friend std::ostream& operator<<(std::ostream& out, const Mpi& mpi) { return out << mpi.name; }
};

std::vector<Mpi> both() {
  std::vector<Mpi> all = {{"openmpi", {}, LOCKSTEP_OPENMPI_OWNER}, {"mpich", {}, LOCKSTEP_MPICH_OWNER}};
  if (*LOCKSTEP_OPENMPI_RUN != '\0') {
    all[0].launcher = {LOCKSTEP_OPENMPI_RUN, "--allow-run-as-root", "--oversubscribe", "-np"};
  }
  if (*LOCKSTEP_MPICH_RUN != '\0') all[1].launcher = {LOCKSTEP_MPICH_RUN, "-np"};
  return all;
}

class MpiTransport : public testing::TestWithParam<Mpi> {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "MPI itself is not built for ThreadSanitizer";
#endif
    if (GetParam().launcher.empty() || *GetParam().owner == '\0') {
      GTEST_SKIP() << "no mpicc." << GetParam().name << " or mpirun." << GetParam().name << " is installed";
    }
  }
  static ProcessEnd run(int n, const Arguments& command) {
    Arguments argv = GetParam().launcher;
    argv.push_back(std::to_string(n));
    argv.insert(argv.end(), command.begin(), command.end());
    support::ProcessOptions options;
    options.environment = {{"ASAN_OPTIONS", "detect_leaks=0"}};  // MPI's own
    return support::run_program(argv, options);
  }
};

TEST_P(MpiTransport, MovesBytesBetweenRanksOfAProgramWithoutMpi) {
  for (const int n : {1, 2, 3}) {
    const ProcessEnd end = run(n, support::worker_command("mpi_exchanges"));
    EXPECT_TRUE(end.ok()) << n << " ranks: exit code " << end.exit_code << "\n" << end.out << end.err;
    EXPECT_EQ(end.err, "") << n << " ranks";
  }
}

TEST_P(MpiTransport, GroupsOfSomeRanksComeAndGo) {
  const ProcessEnd end = run(3, support::worker_command("mpi_groups"));
  EXPECT_TRUE(end.ok()) << "exit code " << end.exit_code << "\n" << end.out << end.err;
  EXPECT_EQ(end.err, "");
}

TEST_P(MpiTransport, IsAGuestOfAProgramThatOwnsMpi) {
  for (const auto& [n, threads] : {std::pair{3, "funneled"}, std::pair{2, "multiple"}}) {
    const ProcessEnd end = run(n, {GetParam().owner, threads});
    EXPECT_TRUE(end.ok()) << threads << ": exit code " << end.exit_code << "\n" << end.out << end.err;
    EXPECT_EQ(end.err, "") << threads;
  }
}

TEST_P(MpiTransport, ARankThatDoesNotComeIsWaitedForUntilTheDeadline) {
  const ProcessEnd end = run(2, support::worker_command("mpi_rank_missing"));
  EXPECT_EQ(end.exit_code, support::kThrew) << end.out << end.err;
  EXPECT_THAT(end.err, HasSubstr("TimeoutError: rank 0/2 group world: not all ranks came to make the group within 0.2 "
                                 "s"));
}

INSTANTIATE_TEST_SUITE_P(, MpiTransport, testing::ValuesIn(both()),
                         [](const testing::TestParamInfo<Mpi>& mpi) { return std::string(mpi.param.name); });

}  // namespace
}  // namespace lockstep
