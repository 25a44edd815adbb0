#include "lockstep/core/base/cpus.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "lockstep/core/io/file.h"

namespace lockstep::base {
namespace {

/// A file system with the control groups' files that a test writes.
class FakeRoot {
 public:
  void write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = directory_.path() + "/" + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  }
  const std::string& path() const { return directory_.path(); }
  double quota() const { return read_cpu_budget(path()).quota; }

 private:
  io::TempDirectory directory_;
};

TEST(CpuBudget, WithoutControlGroupsIsTheAffinityMask) {
  const FakeRoot root;
  const CpuBudget budget = read_cpu_budget(root.path());
  EXPECT_GE(budget.cpus.size(), 1u);
  EXPECT_TRUE(std::is_sorted(budget.cpus.begin(), budget.cpus.end()));
  EXPECT_EQ(budget.quota, 0);
  EXPECT_EQ(budget.usable, static_cast<int>(budget.cpus.size()));
}

TEST(CpuBudget, ReadsTheQuotaOfItsOwnGroup) {
  FakeRoot root;
  root.write("proc/self/cgroup", "0::/jobs/mine");
  root.write("sys/fs/cgroup/jobs/mine/cpu.max", "150000 100000");
  EXPECT_EQ(root.quota(), 1.5);
  EXPECT_EQ(read_cpu_budget(root.path() + "/").quota, 1.5);
}

TEST(CpuBudget, TheTightestGroupOnTheWayUpCounts) {
  FakeRoot root;
  root.write("proc/self/cgroup", "0::/a/b/c");
  root.write("sys/fs/cgroup/a/b/c/cpu.max", "max 100000");
  root.write("sys/fs/cgroup/a/b/cpu.max", "300000 100000");
  root.write("sys/fs/cgroup/a/cpu.max", "50000 100000");
  root.write("sys/fs/cgroup/cpu.max", "400000 100000");
  EXPECT_EQ(root.quota(), 0.5);
  EXPECT_EQ(read_cpu_budget(root.path()).usable, 1);
}

TEST(CpuBudget, TakesTheMountsRootForAGroupOfAnotherNamespace) {
  FakeRoot root;
  root.write("proc/self/cgroup", "0::/../../docker/4711");
  root.write("sys/fs/cgroup/cpu.max", "25000 10000");
  EXPECT_EQ(root.quota(), 2.5);
}

TEST(CpuBudget, NoLimitIsNoQuota) {
  FakeRoot root;
  root.write("proc/self/cgroup", "0::/");
  root.write("sys/fs/cgroup/cpu.max", "max 100000");
  EXPECT_EQ(root.quota(), 0);
}

TEST(CpuBudget, ReadsTheFirstVersionsFiles) {
  FakeRoot root;
  root.write("proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/jobs\n0::/");
  root.write("sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_quota_us", "-1");
  root.write("sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_period_us", "100000");
  EXPECT_EQ(root.quota(), 0);
  root.write("sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_quota_us", "75000");
  EXPECT_EQ(root.quota(), 0.75);
}

TEST(CpuBudget, GarbageSetsNoLimit) {
  FakeRoot root;
  root.write("proc/self/cgroup", "nonsense\n0::/a");
  for (const char* text : {"", "max", "x y", "0 100000", "-5 100000", "100000 0"}) {
    root.write("sys/fs/cgroup/a/cpu.max", text);
    EXPECT_EQ(root.quota(), 0) << text;
  }
}

}  // namespace
}  // namespace lockstep::base
