#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/core/io/file.h"
#include "lockstep/core/store/store.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

TEST(FileStore, ProcessesThatAddLoseNothing) {
  const io::TempDirectory directory;
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      int status = 1;
      try {
        const auto store = make_file_store(directory.path());
        for (int n = 0; n < 100; ++n) store->add("counter", 1);
        status = 0;
      } catch (...) {
        status = 2;
      }
      ::_exit(status);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(make_file_store(directory.path())->try_get("counter"), "300");
}

TEST(FileStore, KeepsToItsDirectoryAndLeavesOnlyKeysAndItsLock) {
  const io::TempDirectory directory;
  const auto store = make_file_store(directory.path() + "/inner");
  store->set("../escape", "x");
  store->set("/etc/lockstep", "x");
  store->add("n", 1);
  EXPECT_FALSE(fs::exists(directory.path() + "/escape"));
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory.path() + "/inner")) {
    names.push_back(entry.path().filename().string());
  }
  EXPECT_THAT(names, testing::UnorderedElementsAre(".lock", "%2E%2E%2Fescape", "%2Fetc%2Flockstep", "n"));
}

TEST(FileStore, ContentsOutliveTheStore) {
  const io::TempDirectory directory;
  make_file_store(directory.path())->set("key", "value");
  EXPECT_EQ(make_file_store(directory.path())->try_get("key"), "value");
}

TEST(FileStore, ADirectoryThatCannotBeIsASystemErrorThatNamesIt) {
  const io::TempDirectory directory;
  io::write_file_atomic(directory.path() + "/file", "");
  try {
    make_file_store(directory.path() + "/file/store");
    FAIL();
  } catch (const SystemError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr(directory.path() + "/file/store"));
  }
  EXPECT_THROW(make_file_store(""), UsageError);
}

TEST(FileStore, ADirectoryThatGoesAwayIsASystemError) {
  const io::TempDirectory directory;
  const auto store = make_file_store(directory.path() + "/store");
  io::remove_tree(directory.path() + "/store");
  EXPECT_THROW(store->set("key", "value"), SystemError);
  EXPECT_THROW(store->add("key", 1), SystemError);
}

}  // namespace
}  // namespace lockstep
