#include "lockstep/core/launch/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/core/io/file.h"

namespace lockstep::launch {
namespace {

using testing::ElementsAre;
using testing::Pair;

std::vector<std::pair<std::string, char>> split(const std::vector<std::string>& chunks) {
  std::vector<std::pair<std::string, char>> lines;
  LineSplitter splitter;
  const auto add = [&](std::string_view text, char end) { lines.emplace_back(text, end); };
  for (const std::string& chunk : chunks) splitter.feed(chunk, add);
  splitter.finish(add);
  return lines;
}

TEST(LineSplitter, CutsAtLineEndsWhereverTheChunksEnd) {
  EXPECT_THAT(split({"a\nb", "c\n\n", "rest"}),
              ElementsAre(Pair("a", '\n'), Pair("bc", '\n'), Pair("", '\n'), Pair("rest", '\n')));
  EXPECT_TRUE(split({"", ""}).empty());
}

TEST(LineSplitter, KeepsTheReturnsOfAProgressBar) {
  EXPECT_THAT(split({"10 %\r20", " %\r30 %\n"}),
              ElementsAre(Pair("10 %", '\r'), Pair("20 %", '\r'), Pair("30 %", '\n')));
  EXPECT_THAT(split({"dos\r\nunix\n"}), ElementsAre(Pair("dos", '\n'), Pair("unix", '\n')));
}

TEST(LineSplitter, CutsALineThatNeverEnds) {
  const auto lines = split({std::string(LineSplitter::kLongest - 1, 'x'), std::string(3, 'y')});
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].first.size(), LineSplitter::kLongest);
  EXPECT_EQ(lines[1].first, "yy");
}

TEST(Tail, KeepsTheLastLines) {
  Tail tail(3);
  for (const char* line : {"1", "2", "3", "4", "5"}) tail.add(line, '\n');
  EXPECT_THAT(tail.lines(), ElementsAre("3", "4", "5"));
}

TEST(Tail, AProgressBarIsOneLine) {
  Tail tail;
  tail.add("start", '\n');
  for (const char* line : {"10 %", "20 %", "30 %"}) tail.add(line, '\r');
  tail.add("", '\n');
  tail.add("after", '\n');
  EXPECT_THAT(tail.lines(), ElementsAre("start", "30 %", "after"));
}

TEST(Sink, WritesInPortionsAndKnowsWhenItIsFull) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK), 0);
  const io::UniqueFd in(ends[0]);
  const io::UniqueFd out(ends[1]);
  Sink sink(out.get());
  const std::string text(3 << 20, 'z');
  sink.append(text);
  EXPECT_TRUE(sink.full());
  std::size_t got = 0;
  std::array<char, 8192> buffer;
  while (sink.pending()) {
    sink.write_some();
    for (ssize_t n; (n = ::read(in.get(), buffer.data(), buffer.size())) > 0;) got += static_cast<std::size_t>(n);
  }
  EXPECT_EQ(got, text.size());
  EXPECT_FALSE(sink.full());
}

TEST(LogFile, IsCreatedWithItsDirectories) {
  const io::TempDirectory directory;
  const std::string path = directory.path() + "/job/attempt_0/1/stdout.log";
  LogFile(path).write("hello\n");
  EXPECT_EQ(io::read_file(path), "hello\n");
  EXPECT_THROW(LogFile(path + "/below"), SystemError);
}

}  // namespace
}  // namespace lockstep::launch
