// What goes wrong between hosts in the middle of a stream of operations: a cable, a rank that dies, one that stops, one
// that calls something else, one that gives up. Every rank on every host gets the right error, in time.

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/check.h"
#include "lockstep/core/comm/init.h"
#include "tests/net/net_worker.h"
#include "tests/support/dev_shm.h"

namespace lockstep::net {
namespace {

using support::Arguments;
using support::Hosts;
using support::ProcessOptions;
using support::ProcessResult;
using support::shared_memory_files;
using ::testing::HasSubstr;

constexpr int kTimeoutMs = 2000;
/// Of a busy machine under a sanitizer; the other deadlines are 30 s and more.
constexpr int kMarginMs = 10000;
constexpr std::uint64_t kStep = 40;  ///< in which it happens

/// Of all processes of this machine.
long long now_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<long long>(now.tv_sec) * 1000 + now.tv_nsec / 1000000;
}

/// The k-th of a stream of operations: small and large ones, with and without a root, in which everyone needs everyone
/// sooner or later.
void operation(Communicator& c, std::uint64_t k, std::vector<float>& in, std::vector<float>& out) {
  constexpr DType kFloat = DType::kFloat32;
  const std::size_t n = k % 3 == 0 ? in.size() / static_cast<std::size_t>(c.world_size()) : 1 + k;
  switch (k % 7) {
    case 0: return c.all_reduce(in.data(), out.data(), n, kFloat);
    case 1: return c.broadcast(out.data(), n, kFloat, static_cast<int>(k) % c.world_size());
    case 2: return c.all_gather(in.data(), out.data(), n, kFloat);
    case 3: return c.reduce_scatter(in.data(), out.data(), n, kFloat);
    case 4: return c.all_to_all(in.data(), out.data(), n, kFloat);
    case 5: return c.reduce(in.data(), out.data(), n, kFloat, static_cast<int>(k) % c.world_size());
    default: return c.barrier();
  }
}

/// What the rank of the event does instead of its kStep-th operation.
void event(const std::string& what, Communicator& c, std::vector<float>& in, std::vector<float>& out) {
  std::cout << "EVENT " << now_ms() << std::endl;
  if (what == "kill") ::kill(::getpid(), SIGKILL);
  if (what == "stop") ::kill(::getpid(), SIGSTOP);
  if (what == "operation") c.all_gather(in.data(), out.data(), 5, DType::kFloat32);
  if (what == "count") c.all_reduce(in.data(), out.data(), 4, DType::kFloat32);
  if (what == "abort") {
    std::thread other([&c] { c.abort("the user pressed stop"); });
    other.join();
  }
}

/// "ERROR type rank milliseconds", with the text behind it.
int report(const char* type, int rank, const Error& error) {
  std::cout << "ERROR " << type << ' ' << rank << ' ' << now_ms() << ' ' << error.what() << std::endl;
  return 0;
}

/// Arguments: the backend, the event, its rank (-1: it comes from outside, and ends with SIGUSR1), the deadline (ms).
LOCKSTEP_WORKER(operates_until_something_happens) {
  sigset_t resume;
  sigemptyset(&resume);
  sigaddset(&resume, SIGUSR1);
  ::pthread_sigmask(SIG_BLOCK, &resume, nullptr);
  const std::string what = arguments.at(1);
  const int who = std::stoi(arguments.at(2));
  InitOptions options;
  options.backend = arguments.at(0);
  options.init_timeout = std::chrono::seconds(30);
  options.timeout = std::chrono::milliseconds(std::stoi(arguments.at(3)));
  const Job job = init_from_environment(options);
  Communicator& c = *job.communicator;
  std::vector<float> in(60000);
  std::vector<float> out(60000);
  int code = 1;
  try {
    for (std::uint64_t k = 1; k < 1000000; ++k) {
      if (k == kStep && who < 0) support::say_ready();
      if (k == kStep && who == c.rank()) event(what, c, in, out);
      // The others' side of a disagreement.
      if (k == kStep && who >= 0) c.all_reduce(in.data(), out.data(), 5, DType::kFloat32);
      operation(c, k, in, out);
    }
  } catch (const PeerError& error) {
    code = report("PeerError", error.rank(), error);
  } catch (const TimeoutError& error) {
    code = report("TimeoutError", error.waiting_for(), error);
  } catch (const MismatchError& error) {
    code = report("MismatchError", -1, error);
  } catch (const AbortedError& error) {
    code = report("AbortedError", -1, error);
  }
  if (who >= 0) return code;
  const timespec patience{30, 0};
  return ::sigtimedwait(&resume, nullptr, &patience) == SIGUSR1 ? code : 2;
}

/// What a rank said of its error.
struct Said {
  std::string type;
  int rank = -1;
  long long ms = 0;
  std::string text;
};

Said said_by(const support::ProcessEnd& end) {
  Said said;
  const auto at = end.out.find("ERROR ");
  if (at == std::string::npos) return said;
  std::istringstream in(end.out.substr(at + 6));
  in >> said.type >> said.rank >> said.ms;
  std::getline(in, said.text);
  return said;
}

long long event_ms(const support::ProcessEnd& end) { return std::stoll(end.out.substr(end.out.find("EVENT ") + 6)); }

struct Fault {
  std::vector<int> ranks_per_host;
  std::string backend;
  int rank;  ///< that it happens to; of a cut: the host
};

std::ostream& operator<<(std::ostream& out, const Fault& fault) {
  for (const int ranks : fault.ranks_per_host) out << ranks << ' ';
  return out << fault.backend << ", of " << fault.rank;
}

ProcessResult run(const Fault& fault, const std::string& what, int timeout_ms) {
  const Hosts hosts(static_cast<int>(fault.ranks_per_host.size()));
  ProcessOptions options;
  int survivors = -1;
  for (const int ranks : fault.ranks_per_host) survivors += ranks;
  // A stopped process never ends by itself: once all others have spoken, it may go.
  options.on_line = [&](launch::Supervisor& supervisor, const launch::OutputLine& line) {
    if (line.text.starts_with("ERROR ") && --survivors == 0 && what == "stop") supervisor.signal(fault.rank, SIGKILL);
  };
  return run_on_hosts(hosts, fault.ranks_per_host, "operates_until_something_happens",
                      {fault.backend, what, std::to_string(fault.rank), std::to_string(timeout_ms)}, options);
}

/// Nothing of ours stays: no namespace, no file in shared memory. (Processes are waited for by the runner.)
class FaultsOnHosts : public ::testing::Test {
 protected:
  static int namespaces() {
    const std::string prefix = base::cat("lsnet", ::getpid(), "-");
    std::error_code none;
    int n = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/run/netns", none)) {
      n += entry.path().filename().string().starts_with(prefix) ? 1 : 0;
    }
    return n;
  }
  void SetUp() override {
    before_ = shared_memory_files();
    LOCKSTEP_NEEDS_HOSTS();
  }
  void TearDown() override {
    EXPECT_EQ(namespaces(), 0);
    EXPECT_EQ(shared_memory_files(), before_);
  }

  /// All but the fault's rank say `type` of `rank`, `ms` after the event at the latest, and a margin.
  static void expect_others_say(const ProcessResult& result, const Fault& fault, const std::string& type, int rank,
                                long long ms) {
    EXPECT_FALSE(result.deadline_passed) << result;
    const long long at = event_ms(result.ranks[static_cast<std::size_t>(fault.rank)]);
    for (const auto& end : result.ranks) {
      if (end.rank == fault.rank) continue;
      const Said said = said_by(end);
      EXPECT_TRUE(end.ok()) << result;
      EXPECT_EQ(said.type, type) << result;
      EXPECT_EQ(said.rank, rank) << result;
      EXPECT_LE(said.ms, at + ms + kMarginMs) << result;
    }
  }

 private:
  std::set<std::string> before_;
};

// Both sides of a cable find out by themselves, since nobody can tell the other side.
TEST_F(FaultsOnHosts, ACutCableIsATimeoutOnBothSides) {
  for (const Fault& fault :
       {Fault{{1, 2}, "gloo", 0}, Fault{{2, 2}, "hier", 1}, Fault{{2, 1}, "hier", 0}, Fault{{1, 3}, "hier", 1}}) {
    std::ostringstream trace;
    trace << fault;
    SCOPED_TRACE(trace.str());
    Hosts hosts(2);
    int ready = 0;
    int errors = 0;
    long long cut_ms = 0;
    const int world = fault.ranks_per_host[0] + fault.ranks_per_host[1];
    ProcessOptions options;
    options.on_line = [&](launch::Supervisor& supervisor, const launch::OutputLine& line) {
      if (line.text.starts_with("READY") && ++ready == 1) {
        hosts.cut(fault.rank);
        cut_ms = now_ms();
      }
      if (!line.text.starts_with("ERROR ") || ++errors < world) return;
      hosts.restore(fault.rank);
      for (int rank = 0; rank < world; ++rank) supervisor.signal(rank, SIGUSR1);
    };
    const ProcessResult result = run_on_hosts(hosts, fault.ranks_per_host, "operates_until_something_happens",
                                              {fault.backend, "cut", "-1", std::to_string(kTimeoutMs)}, options);
    EXPECT_TRUE(result.ok()) << result;
    for (const auto& end : result.ranks) {
      const Said said = said_by(end);
      const bool on_first = end.rank < fault.ranks_per_host[0];
      EXPECT_EQ(said.type, "TimeoutError") << result;
      EXPECT_LE(said.ms, cut_ms + kTimeoutMs + kMarginMs) << result;
      EXPECT_THAT(said.text, HasSubstr("timed out after 2 s; waiting for rank ")) << result;
      EXPECT_EQ(said.rank < fault.ranks_per_host[0], !on_first) << result;
    }
  }
}

TEST_F(FaultsOnHosts, AKilledRankIsNamedByEverySurvivor) {
  for (const Fault& fault :
       {Fault{{1, 1}, "gloo", 0}, Fault{{2, 1}, "gloo", 1}, Fault{{1, 2, 1}, "gloo", 3}, Fault{{2, 2}, "hier", 3},
        Fault{{2, 2}, "hier", 0}, Fault{{1, 3}, "hier", 1}, Fault{{1, 3}, "hier", 3}, Fault{{3, 1}, "hier", 3}}) {
    std::ostringstream trace;
    trace << fault;
    SCOPED_TRACE(trace.str());
    const ProcessResult result = run(fault, "kill", 60000);
    expect_others_say(result, fault, "PeerError", fault.rank, 0);
    EXPECT_EQ(result.ranks[static_cast<std::size_t>(fault.rank)].signal, SIGKILL) << result;
  }
}

TEST_F(FaultsOnHosts, AStoppedRankIsNamedAtTheDeadline) {
  for (const Fault& fault : {Fault{{1, 1}, "gloo", 1}, Fault{{2, 1}, "gloo", 1}, Fault{{1, 3}, "hier", 3},
                             Fault{{2, 2}, "hier", 2}, Fault{{3, 1}, "hier", 3}}) {
    std::ostringstream trace;
    trace << fault;
    SCOPED_TRACE(trace.str());
    const ProcessResult result = run(fault, "stop", kTimeoutMs);
    expect_others_say(result, fault, "TimeoutError", fault.rank, kTimeoutMs);
    EXPECT_EQ(result.ranks[static_cast<std::size_t>(fault.rank)].signal, SIGKILL) << result;
  }
}

TEST_F(FaultsOnHosts, ADisagreementIsToldToAllWithBothSides) {
  const std::string ours = base::cat("all_reduce #", kStep, " (5 f32, sum)");
  for (const auto& [what, theirs] :
       {std::pair<std::string, std::string>{"operation", "all_gather"}, {"count", "all_reduce"}}) {
    const std::string call = base::cat(theirs, " #", kStep, what == "count" ? " (4 f32, sum)" : " (5 f32)");
    for (const Fault& fault : {Fault{{2, 1}, "gloo", 1}, Fault{{1, 2}, "hier", 2}, Fault{{2, 2}, "hier", 0}}) {
      std::ostringstream trace;
      trace << fault;
      SCOPED_TRACE(trace.str());
      const ProcessResult result = run(fault, what, 30000);
      EXPECT_TRUE(result.ok()) << result;
      for (const auto& end : result.ranks) {
        const Said said = said_by(end);
        EXPECT_EQ(said.type, "MismatchError") << result;
        EXPECT_THAT(said.text, HasSubstr(ours)) << result;
        EXPECT_THAT(said.text, HasSubstr(call)) << result;
        EXPECT_THAT(said.text, HasSubstr(base::cat("rank ", fault.rank))) << result;
      }
    }
  }
}

TEST_F(FaultsOnHosts, AnAbortFromAnotherThreadFreesAll) {
  for (const Fault& fault : {Fault{{2, 1}, "gloo", 2}, Fault{{1, 3}, "hier", 3}, Fault{{2, 2}, "hier", 0}}) {
    std::ostringstream trace;
    trace << fault;
    SCOPED_TRACE(trace.str());
    const ProcessResult result = run(fault, "abort", 30000);
    EXPECT_TRUE(result.ok()) << result;
    expect_others_say(result, fault, "AbortedError", -1, 0);
    for (const auto& end : result.ranks) EXPECT_THAT(said_by(end).text, HasSubstr("the user pressed stop")) << result;
  }
}

}  // namespace
}  // namespace lockstep::net
