#include "lockstep/core/base/token_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/core/io/file.h"

namespace lockstep::base {
namespace {

class TokenFile : public testing::Test {
 protected:
  std::string write(const std::string& content, mode_t mode = 0600) {
    std::ofstream(path_, std::ios::binary) << content;
    EXPECT_EQ(::chmod(path_.c_str(), mode), 0);
    return path_;
  }
  void refuses(const std::string& path, const std::string& text) {
    try {
      read_token_file(path);
      ADD_FAILURE() << "accepted; expected: " << text;
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), testing::StartsWith("token file " + path + ": "));
      EXPECT_THAT(error.what(), testing::HasSubstr(text));
    }
  }

  const io::TempDirectory directory_;
  const std::string path_ = directory_.path() + "/token";
};

TEST_F(TokenFile, IsOneLineWithOrWithoutItsEnd) {
  for (const char* content : {"secret 7", "secret 7\n", "secret 7\r\n"}) {
    EXPECT_EQ(read_token_file(write(content)), "secret 7");
  }
  EXPECT_EQ(read_token_file(write("x", 0400)), "x");
  EXPECT_EQ(read_token_file(write(std::string(1024, 'x') + "\n")), std::string(1024, 'x'));
}

TEST_F(TokenFile, MustBelongToItsOwnerAlone) {
  for (const mode_t mode : {0640, 0604, 0620, 0602, 0644, 0777}) refuses(write("secret", mode), "chmod 600 " + path_);
}

TEST_F(TokenFile, OfAnotherUserIsRefused) {
  write("secret");
  if (::chown(path_.c_str(), 12345, static_cast<gid_t>(-1)) != 0) GTEST_SKIP() << "only root gives files away";
  refuses(path_, "belongs to user 12345");
}

TEST_F(TokenFile, MustHoldOneLine) {
  refuses(write(""), "empty");
  refuses(write("\n"), "empty");
  refuses(write("one\ntwo\n"), "one line");
  refuses(write(std::string("a\0b", 3)), "one line");
  refuses(write(std::string(1025, 'x')), "at most 1024");
}

TEST_F(TokenFile, MustBeAFile) {
  refuses(directory_.path(), "not a regular file");
  refuses(directory_.path() + "/missing", "No such file");
}

}  // namespace
}  // namespace lockstep::base
