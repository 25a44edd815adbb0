#include "lockstep/core/store/wire.h"

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

namespace lockstep::store {
namespace {

using Status = ParsedFrame::Status;

std::string header(const std::string& magic, int type, int flags, std::size_t key, std::size_t value,
                   std::size_t expected = 0) {
  std::string out = magic;
  const auto put = [&out](std::size_t number, int nbytes) {
    for (int i = 0; i < nbytes; ++i) out += static_cast<char>(number >> (8 * i) & 0xFF);
  };
  put(static_cast<std::size_t>(type), 1);
  put(static_cast<std::size_t>(flags), 1);
  put(key, 2);
  put(value, 4);
  put(expected, 4);
  return out;
}
const std::string kMagic = "LST\x01";

// The bytes themselves: another implementation of docs/formats/store_wire.md must agree with them.
TEST(Wire, FramesHaveTheDocumentedBytes) {
  EXPECT_EQ(encode_frame({.type = FrameType::kHello, .value = "tok"}),
            std::string("LST\x01\x01\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00tok", 19));
  EXPECT_EQ(
      encode_frame(
          {.type = FrameType::kCompareAndSet, .flags = kHasExpected, .key = "k", .value = "new", .expected = "ol"}),
      std::string("LST\x01\x06\x01\x01\x00\x03\x00\x00\x00\x02\x00\x00\x00knewol", 22));
  EXPECT_EQ(encode_int(-2), "\xFE\xFF\xFF\xFF\xFF\xFF\xFF\xFF");
}

TEST(Wire, FramesOfEachTypeComeBack) {
  const std::vector<std::pair<Frame, Expect>> frames = {
      {{.type = FrameType::kHello, .value = "token"}, Expect::kHello},
      {{.type = FrameType::kHello}, Expect::kHello},
      {{.type = FrameType::kSet, .key = "k", .value = "v"}, Expect::kRequest},
      {{.type = FrameType::kGet, .key = "key"}, Expect::kRequest},
      {{.type = FrameType::kTryGet, .key = "key"}, Expect::kRequest},
      {{.type = FrameType::kAdd, .key = "key", .value = "12345678"}, Expect::kRequest},
      {{.type = FrameType::kCompareAndSet, .key = "k", .value = "v"}, Expect::kRequest},
      {{.type = FrameType::kCompareAndSet, .flags = kHasExpected, .key = "k", .value = "v", .expected = "e"},
       Expect::kRequest},
      {{.type = FrameType::kErase, .key = "key"}, Expect::kRequest},
      {{.type = FrameType::kValue, .value = "v"}, Expect::kReply},
      {{.type = FrameType::kMissing}, Expect::kReply},
      {{.type = FrameType::kUsage, .value = "why"}, Expect::kReply},
  };
  for (const auto& [frame, expect] : frames) {
    const std::string bytes = encode_frame(frame);
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      const ParsedFrame part = parse_frame(std::string_view(bytes).substr(0, size), expect);
      ASSERT_EQ(part.status, Status::kIncomplete);
      ASSERT_GT(part.nbytes, size);
      ASSERT_LE(part.nbytes, bytes.size());
    }
    const std::string followed = bytes + "next";
    const ParsedFrame parsed = parse_frame(followed, expect);
    ASSERT_EQ(parsed.status, Status::kFrame);
    EXPECT_EQ(parsed.nbytes, bytes.size());
    EXPECT_EQ(parsed.frame.type, frame.type);
    EXPECT_EQ(parsed.frame.flags, frame.flags);
    EXPECT_EQ(parsed.frame.key, frame.key);
    EXPECT_EQ(parsed.frame.value, frame.value);
    EXPECT_EQ(parsed.frame.expected, frame.expected);
  }
}

TEST(Wire, AHeaderBeyondABoundIsMalformedBeforeItsPayload) {
  constexpr std::size_t kMiB = 1 << 20;
  const std::vector<std::tuple<const char*, std::string, Expect>> cases = {
      {"other protocol", "GET / HTTP/1.1\r\n", Expect::kHello},
      {"other version", header("LST\x02", 1, 0, 0, 0), Expect::kHello},
      {"request before hello", header(kMagic, 2, 0, 1, 1), Expect::kHello},
      {"long token", header(kMagic, 1, 0, 0, kMaxTokenNbytes + 1), Expect::kHello},
      {"hello with key", header(kMagic, 1, 0, 1, 0), Expect::kHello},
      {"hello again", header(kMagic, 1, 0, 0, 0), Expect::kRequest},
      {"type 0", header(kMagic, 0, 0, 1, 0), Expect::kRequest},
      {"type 8", header(kMagic, 8, 0, 1, 0), Expect::kRequest},
      {"reply as request", header(kMagic, 128, 0, 0, 0), Expect::kRequest},
      {"request as reply", header(kMagic, 2, 0, 1, 0), Expect::kReply},
      {"flags on set", header(kMagic, 2, 1, 1, 1), Expect::kRequest},
      {"unknown flag", header(kMagic, 6, 2, 1, 1), Expect::kRequest},
      {"no key", header(kMagic, 2, 0, 0, 1), Expect::kRequest},
      {"long key", header(kMagic, 2, 0, 1025, 1), Expect::kRequest},
      {"long value", header(kMagic, 2, 0, 1, 64 * kMiB + 1), Expect::kRequest},
      {"longest value", header(kMagic, 2, 0, 1, 0xFFFFFFFF), Expect::kRequest},
      {"get with value", header(kMagic, 3, 0, 1, 1), Expect::kRequest},
      {"short amount", header(kMagic, 5, 0, 1, 7), Expect::kRequest},
      {"long amount", header(kMagic, 5, 0, 1, 9), Expect::kRequest},
      {"expected without flag", header(kMagic, 6, 0, 1, 1, 1), Expect::kRequest},
      {"long expected", header(kMagic, 6, 1, 1, 1, 64 * kMiB + 1), Expect::kRequest},
      {"expected on set", header(kMagic, 2, 0, 1, 1, 1), Expect::kRequest},
      {"missing with value", header(kMagic, 129, 0, 0, 1), Expect::kReply},
      {"long reason", header(kMagic, 130, 0, 0, kMiB), Expect::kReply},
  };
  for (const auto& [name, bytes, expect] : cases) {
    const ParsedFrame parsed = parse_frame(bytes, expect);
    EXPECT_EQ(parsed.status, Status::kMalformed) << name;
    EXPECT_STRNE(parsed.reason, "") << name;
  }
  EXPECT_EQ(parse_frame(header(kMagic, 2, 0, 1024, 64 * kMiB), Expect::kRequest).nbytes, 16 + 1024 + 64 * kMiB);
}

TEST(Wire, IntegersRoundTrip) {
  for (const std::int64_t number : {std::int64_t{0}, std::int64_t{-1}, std::int64_t{300}, INT64_MIN, INT64_MAX}) {
    EXPECT_EQ(decode_int(encode_int(number)), number);
  }
  EXPECT_EQ(decode_int("1234567"), std::nullopt);
  EXPECT_EQ(decode_int("123456789"), std::nullopt);
}

TEST(Wire, ConstantTimeComparisonIsEquality) {
  const std::vector<std::string> tokens = {"", "a", "b", "ab", "aa", "aaa", std::string(1, '\0'), std::string(2, '\0')};
  for (const std::string& a : tokens) {
    for (const std::string& b : tokens) EXPECT_EQ(equal_in_constant_time(a, b), a == b) << a << " " << b;
  }
}

}  // namespace
}  // namespace lockstep::store
