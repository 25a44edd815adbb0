// The bed itself: hosts that reach each other, links that can be cut, delays, and nothing left behind.

#include "tests/support/hosts.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/check.h"
#include "lockstep/core/io/socket.h"
#include "tests/net/net_worker.h"

namespace lockstep::net {
namespace {

using support::Arguments;
using support::Hosts;
using support::HostsOptions;
using support::ProcessOptions;
using support::ProcessResult;
using testing::HasSubstr;
using testing::StartsWith;

constexpr int kPort = 4711;

Deadline patience() { return Deadline::after(std::chrono::seconds(30)); }

/// Of one byte there and back.
Duration round_trip(io::Socket& socket, Deadline deadline) {
  const auto start = Clock::now();
  char byte = 'x';
  socket.send_all(&byte, 1, deadline);
  byte = 0;
  socket.recv_all(&byte, 1, deadline);
  LS_CHECK(byte == 'x', "another byte came back");
  return Clock::now() - start;
}

std::string host_name() {
  std::string name(256, '\0');
  ::gethostname(name.data(), name.size());
  return name.c_str();
}

/// Arguments: the address to listen on. Sends back what comes, until it is killed.
LOCKSTEP_WORKER(echoes) {
  io::Listener listener(arguments.at(0), kPort);
  support::say_ready();
  for (;;) {
    pollfd entry{listener.fd(), POLLIN, 0};
    ::poll(&entry, 1, -1);
    auto fd = listener.accept();
    if (!fd) continue;
    std::thread([caller = io::Socket(*std::move(fd), "the caller")]() mutable {
      try {
        for (char byte = 0;;) {
          caller.recv_all(&byte, 1, Deadline::none());
          caller.send_all(&byte, 1, Deadline::none());
        }
      } catch (const Error&) {
        // It has hung up.
      }
    }).detach();
  }
}

/// Arguments: the address to call; seconds of patience. Prints its host's name and the shortest of some round trips in
/// microseconds.
LOCKSTEP_WORKER(calls) {
  io::Socket socket =
      io::connect_tcp(arguments.at(0), kPort, Deadline::after(std::chrono::seconds(std::stoi(arguments.at(1)))));
  Duration least = Duration::max();
  for (int i = 0; i < 5; ++i) least = std::min(least, round_trip(socket, patience()));
  std::cout << "called from " << host_name() << ' '
            << std::chrono::duration_cast<std::chrono::microseconds>(least).count() << std::endl;
  return 0;
}

/// Calls until nothing comes back, says so, and calls again.
LOCKSTEP_WORKER(calls_through_a_cut) {
  io::Socket before = io::connect_tcp(arguments.at(0), kPort, patience());
  round_trip(before, patience());
  support::say_ready("connected");
  const Deadline cut = patience();
  for (bool silent = false; !silent;) {
    if (cut.passed()) return 1;
    try {
      round_trip(before, Deadline::after(std::chrono::milliseconds(300)));
    } catch (const TimeoutError&) {
      silent = true;
    }
  }
  support::say_ready("silent");
  io::Socket after = io::connect_tcp(arguments.at(0), kPort, patience());
  round_trip(after, patience());
  support::say_ready("connected again");
  return 0;
}

/// The named worker on host 1 calls an echo on host 0, which ends after the caller's line `last`. on_line sees the
/// caller's lines.
ProcessResult call(const Hosts& hosts, const std::string& worker, std::string_view last,
                   const std::function<void(std::string_view)>& on_line = {}) {
  ProcessOptions options;
  options.on_line = [&](launch::Supervisor& supervisor, const launch::OutputLine& line) {
    if (line.rank != 1 || line.error) return;
    if (on_line) on_line(line.text);
    if (line.text.starts_with(last)) supervisor.signal(0, SIGKILL);
  };
  return run_one_each(hosts,
                      {support::worker_command("echoes", {hosts.address(0)}),
                       support::worker_command(worker, {hosts.address(0), "30"})},
                      {}, options);
}

/// The namespaces of this process's beds.
int namespaces_of_this_process() {
  const std::string prefix = base::cat("lsnet", ::getpid(), "-");
  std::error_code none;
  const std::filesystem::directory_iterator all("/run/netns", none);
  return static_cast<int>(std::count_if(begin(all), end(all), [&](const std::filesystem::directory_entry& entry) {
    return entry.path().filename().string().starts_with(prefix);
  }));
}

TEST(HostsTest, ReachEachOtherUnderTheirOwnNames) {
  LOCKSTEP_NEEDS_HOSTS();
  const Hosts hosts(2);
  const ProcessResult result = call(hosts, "calls", "called from");
  EXPECT_TRUE(result.ranks[1].ok()) << result;
  EXPECT_THAT(result.ranks[1].out, StartsWith("called from " + hosts.name(1) + " ")) << result;
}

TEST(HostsTest, ACutLinkIsSilentUntilItIsRestored) {
  LOCKSTEP_NEEDS_HOSTS();
  for (const HostsOptions& options : {HostsOptions{}, HostsOptions{"1gbit", 100}}) {
    Hosts hosts(2, options);
    const ProcessResult result =
        call(hosts, "calls_through_a_cut", "READY connected again", [&](std::string_view line) {
          if (line == "READY connected") hosts.cut(1);
          if (line == "READY silent") hosts.restore(1);
        });
    EXPECT_TRUE(result.ranks[1].ok()) << result;
    EXPECT_EQ(result.ranks[1].out, "READY connected\nREADY silent\nREADY connected again\n") << result;
  }
}

TEST(HostsTest, ADelayIsPaidEachWay) {
  LOCKSTEP_NEEDS_HOSTS();
  const Hosts hosts(3, {.rate = "1gbit", .delay_us = 3000});
  const ProcessResult result = call(hosts, "calls", "called from");
  ASSERT_TRUE(result.ranks[1].ok()) << result;
  EXPECT_GE(std::stoi(result.ranks[1].out.substr(result.ranks[1].out.rfind(' '))), 2 * 3000) << result;
}

TEST(HostsTest, BedsDoNotSeeEachOther) {
  LOCKSTEP_NEEDS_HOSTS();
  const Hosts one(2);
  const Hosts other(2);
  ProcessOptions options;
  options.on_line = [](launch::Supervisor& supervisor, const launch::OutputLine& line) {
    if (line.rank == 1 && line.error) supervisor.signal(0, SIGKILL);
  };
  const ProcessResult result =
      support::run_programs({one.on(0, support::worker_command("echoes", {one.address(0)})),
                             other.on(1, support::worker_command("calls", {one.address(0), "1"}))},
                            options);
  EXPECT_EQ(result.ranks[1].exit_code, support::kThrew) << result;
  EXPECT_THAT(result.ranks[1].err, HasSubstr("TimeoutError: connect to " + one.address(0))) << result;
}

TEST(HostsTest, NothingIsLeftBehind) {
  LOCKSTEP_NEEDS_HOSTS();
  {
    const Hosts hosts(3, {.rate = "100mbit", .delay_us = 1000});
    EXPECT_EQ(namespaces_of_this_process(), 4);
  }
  EXPECT_EQ(namespaces_of_this_process(), 0);
}

TEST(HostsTest, NothingIsLeftOfABedThatCannotBe) {
  LOCKSTEP_NEEDS_HOSTS();
  try {
    const Hosts hosts(2, {.rate = "fast"});
    FAIL() << "no error";
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), HasSubstr("rate fast"));
  }
  EXPECT_EQ(namespaces_of_this_process(), 0);
  EXPECT_THROW(Hosts(0), UsageError);
  EXPECT_THROW(Hosts(2, {.delay_us = -1}), UsageError);
}

/// Makes a bed and waits to be killed.
LOCKSTEP_WORKER(keeps_hosts) {
  const Hosts hosts(1);
  support::say_ready(std::to_string(::getpid()));
  ::pause();
  return 0;
}

TEST(HostsTest, TheNextBedRemovesWhatAKilledProcessLeft) {
  LOCKSTEP_NEEDS_HOSTS();
  ProcessOptions options;
  options.on_line = [](launch::Supervisor& supervisor, const launch::OutputLine& line) {
    if (line.text.starts_with("READY")) supervisor.signal(0, SIGKILL);
  };
  const support::ProcessEnd end = support::run_program(support::worker_command("keeps_hosts"), options);
  ASSERT_EQ(end.signal, SIGKILL) << end.err;
  const Hosts hosts(1);
  EXPECT_FALSE(std::filesystem::exists(base::cat("/run/netns/lsnet", end.pid, "-1-switch")));
  EXPECT_EQ(namespaces_of_this_process(), 2);
}

}  // namespace
}  // namespace lockstep::net
