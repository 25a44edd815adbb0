#include "lockstep/core/base/host.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/core/base/scoped_environment.h"

namespace lockstep::base {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(OwnHost, IsTheSameEveryTimeAndInAChild) {
  ScopedEnvironment environment;
  const HostIdentity here = own_host();
  EXPECT_EQ(own_host().id, here.id);
  EXPECT_EQ(here.name, host_name());
  EXPECT_FALSE(here.id.empty());
  EXPECT_THAT(here.id, HasSubstr(boot_id()));
}

TEST(OwnHost, TheEnvironmentReplacesIt) {
  ScopedEnvironment environment;
  environment.set("LOCKSTEP_HOST_ID", "rack 7");
  EXPECT_EQ(own_host().id, "rack 7");
  EXPECT_EQ(own_host().name, host_name());
}

/// What a child says of its host after it left these namespaces; empty where the kernel refuses, with errno set.
std::string id_after_unshare(int namespaces) {
  std::array<int, 2> pipe{};
  if (::pipe(pipe.data()) != 0) return "";
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(pipe[0]);
    if (::unshare(namespaces) != 0) ::_exit(errno);
    // A new pid namespace is for the children of whoever made it.
    const pid_t grandchild = ::fork();
    if (grandchild == 0) {
      const std::string id = own_host().id;
      ::_exit(::write(pipe[1], id.data(), id.size()) == static_cast<ssize_t>(id.size()) ? 0 : EIO);
    }
    int status = 0;
    ::waitpid(grandchild, &status, 0);
    ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : EIO);
  }
  ::close(pipe[1]);
  std::string id(4096, '\0');
  const ssize_t got = ::read(pipe[0], id.data(), id.size());
  ::close(pipe[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  errno = WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
  id.resize(got > 0 && errno == 0 ? static_cast<std::size_t>(got) : 0);
  return id;
}

struct Case {
  std::string name;
  int namespaces;
  bool same;
};

class OwnHostInNamespaces : public testing::TestWithParam<Case> {};

TEST_P(OwnHostInNamespaces, CountsThoseThatSeparateHosts) {
  ScopedEnvironment environment;
  const std::string other = id_after_unshare(GetParam().namespaces);
  if (other.empty()) GTEST_SKIP() << "unshare: " << std::strerror(errno);
  EXPECT_EQ(other == own_host().id, GetParam().same) << other;
}

const Case kCases[] = {
    {"none", 0, true},
    {"host_name", CLONE_NEWUTS, true},
    {"mounts", CLONE_NEWNS, true},
    {"network", CLONE_NEWNET, false},
    {"users", CLONE_NEWUSER, false},
    {"users_and_network", CLONE_NEWUSER | CLONE_NEWNET, false},
    // /proc is still that of the first namespace, and there /proc/self is nobody: a host of its own.
    {"processes", CLONE_NEWPID, false},
};

INSTANTIATE_TEST_SUITE_P(Kernel, OwnHostInNamespaces, testing::ValuesIn(kCases),
                         [](const auto& param_info) { return param_info.param.name; });

TEST(GroupByHost, NumbersHostsByFirstAppearance) {
  const std::vector<std::string> ids = {"b", "a", "b", "c", "a", "b"};
  const HostMap map = group_by_host(ids);
  EXPECT_EQ(map.hosts, 3);
  EXPECT_THAT(map.host_of_rank, ElementsAre(0, 1, 0, 2, 1, 0));
  EXPECT_THAT(map.ranks_of_host, ElementsAre(ElementsAre(0, 2, 5), ElementsAre(1, 4), ElementsAre(3)));
}

TEST(GroupByHost, OneHostAllHostsAndNobody) {
  EXPECT_THAT(group_by_host(std::vector<std::string>(3, "x")).ranks_of_host, ElementsAre(ElementsAre(0, 1, 2)));
  EXPECT_THAT(group_by_host(std::vector<std::string>{"x", "y"}).ranks_of_host,
              ElementsAre(ElementsAre(0), ElementsAre(1)));
  const HostMap none = group_by_host({});
  EXPECT_EQ(none.hosts, 0);
  EXPECT_TRUE(none.host_of_rank.empty());
  EXPECT_TRUE(none.ranks_of_host.empty());
}

}  // namespace
}  // namespace lockstep::base
