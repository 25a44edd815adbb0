#include "lockstep/core/io/file.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"

namespace lockstep::io {
namespace {

namespace fs = std::filesystem;

int entries(const std::string& directory) {
  int count = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(directory)) ++count;
  return count;
}

TEST(File, ContentOfEverySizeComesBack) {
  const TempDirectory directory;
  const std::string path = directory.path() + "/file";
  for (const std::size_t size : {0, 1, 4095, 4096, 4097, 1'000'003}) {
    std::string content(size, '\0');
    for (std::size_t i = 0; i < size; ++i) content[i] = static_cast<char>(i * 31);
    write_file_atomic(path, content);
    EXPECT_EQ(read_file(path), content) << size;
    EXPECT_EQ(entries(directory.path()), 1) << "something is left beside the file";
  }
}

TEST(File, AFileWithoutASizeIsReadToItsEnd) {
  EXPECT_THAT(read_file("/proc/self/status"), testing::HasSubstr("Threads:"));
}

TEST(File, AMissingFileIsASystemErrorThatNamesIt) {
  try {
    read_file("/nonexistent/file");
    FAIL();
  } catch (const SystemError& error) {
    EXPECT_EQ(error.code(), ENOENT);
    EXPECT_THAT(error.what(), testing::HasSubstr("open /nonexistent/file"));
  }
}

TEST(File, AFailedWriteLeavesTheOldContentAndNothingElse) {
  const TempDirectory directory;
  const std::string occupied = directory.path() + "/occupied";
  fs::create_directories(occupied + "/child");
  EXPECT_THROW(write_file_atomic(occupied, "content"), SystemError);
  EXPECT_EQ(entries(directory.path()), 1);
  EXPECT_THROW(write_file_atomic(directory.path() + "/missing/file", "content"), SystemError);
  EXPECT_EQ(entries(directory.path()), 1);
}

TEST(File, AWriteThatStopsHalfWayLeavesNothing) {
  const TempDirectory directory;
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit tight = old;
  tight.rlim_cur = 1000;  // write() fails beyond, as on a full disk
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  int code = 0;
  try {
    write_file_atomic(directory.path() + "/file", std::string(5000, 'x'));
  } catch (const SystemError& error) {
    code = error.code();
  }
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(code, EFBIG);
  EXPECT_EQ(entries(directory.path()), 0);
}

TEST(File, AReaderNeverSeesAPart) {
  const TempDirectory directory;
  const std::string path = directory.path() + "/file";
  const std::vector<std::string> contents = {std::string(10'000, 'a'), std::string(20'001, 'b')};
  write_file_atomic(path, contents[0], Durability::kCached);
  std::thread writer([&] {
    for (std::size_t i = 0; i < 200; ++i) write_file_atomic(path, contents[i % 2], Durability::kCached);
  });
  for (int i = 0; i < 200; ++i) {
    const std::string seen = read_file(path);
    EXPECT_TRUE(seen == contents[0] || seen == contents[1]) << "read a part of " << seen.size() << " bytes";
  }
  writer.join();
}

TEST(TempDirectory, IsPrivateAndGoesWithItsContent) {
  std::string path;
  {
    const TempDirectory directory("prefix");
    path = directory.path();
    EXPECT_THAT(path, testing::HasSubstr("/prefix-"));
    struct stat status {};
    ASSERT_EQ(::stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0700U);
    fs::create_directories(path + "/a/b");
    std::ofstream(path + "/a/b/file") << "content";
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST(TempDirectory, MovesItsOwnership) {
  std::optional<TempDirectory> first(std::in_place);
  const std::string path = first->path();
  std::optional<TempDirectory> second(std::move(*first));
  first.reset();
  EXPECT_TRUE(fs::exists(path));
  second.reset();
  EXPECT_FALSE(fs::exists(path));
}

TEST(RemoveTree, FollowsNoLinkAndForgivesAMissingPath) {
  const TempDirectory directory;
  const std::string outside = directory.path() + "/outside";
  fs::create_directories(directory.path() + "/tree/child");
  write_file_atomic(outside, "content");
  fs::create_symlink(outside, directory.path() + "/tree/link");
  remove_tree(directory.path() + "/tree");
  EXPECT_FALSE(fs::exists(directory.path() + "/tree"));
  EXPECT_EQ(read_file(outside), "content");
  remove_tree(directory.path() + "/tree");
}

}  // namespace
}  // namespace lockstep::io
