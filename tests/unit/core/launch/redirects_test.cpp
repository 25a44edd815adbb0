#include "lockstep/core/launch/redirects.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"

namespace lockstep::launch {
namespace {

TEST(StreamChoice, OneNumberIsForAllRanks) {
  EXPECT_TRUE(parse_stream_choice("0").none());
  EXPECT_EQ(parse_stream_choice("1").of(7), Streams::kOut);
  EXPECT_EQ(parse_stream_choice("2").of(0), Streams::kErr);
  const StreamChoice both = parse_stream_choice("3");
  EXPECT_TRUE(has(both.of(3), Streams::kOut) && has(both.of(3), Streams::kErr));
  EXPECT_EQ(both.highest_rank(), -1);
}

TEST(StreamChoice, ANumberForEachRank) {
  const StreamChoice choice = parse_stream_choice("0:1,5:3,2:0");
  EXPECT_EQ(choice.of(0), Streams::kOut);
  EXPECT_EQ(choice.of(1), Streams::kNone);
  EXPECT_EQ(choice.of(2), Streams::kNone);
  EXPECT_EQ(choice.of(5), Streams::kBoth);
  EXPECT_EQ(choice.highest_rank(), 5);
  EXPECT_FALSE(choice.none());
  EXPECT_TRUE(parse_stream_choice("0:0,1:0").none());
  EXPECT_TRUE(StreamChoice().none());
}

TEST(StreamChoice, WhatDoesNotParseIsAUsageErrorThatShowsIt) {
  for (const char* text : {"", "4", "-1", "x", "1,2", "0:", "0:4", ":1", "x:1", "0:1,", ",0:1", "0:1,0:2", "0:1:2"}) {
    try {
      parse_stream_choice(text);
      FAIL() << "'" << text << "' was accepted";
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("'" + std::string(text) + "'")) << text;
    }
  }
}

}  // namespace
}  // namespace lockstep::launch
