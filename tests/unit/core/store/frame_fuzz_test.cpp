// A fixed walk through the fuzzer's entry, for compilers without libFuzzer.

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/core/store/wire.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace lockstep::store {
namespace {

void feed(const std::string& bytes) {
  // Copied to the heap at its exact size, so that the address sanitizer sees a read beyond it.
  const std::vector<std::uint8_t> copy(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
}

TEST(FrameFuzz, RandomBytes) {
  std::mt19937 random(1);
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes(random() % 64, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    feed(bytes);
  }
}

TEST(FrameFuzz, MutatedFrames) {
  const std::vector<std::string> seeds = {
      encode_frame({.type = FrameType::kHello, .value = "token"}),
      encode_frame({.type = FrameType::kSet, .key = "key", .value = "value"}),
      encode_frame({.type = FrameType::kGet, .key = "key"}),
      encode_frame({.type = FrameType::kAdd, .key = "key", .value = encode_int(7)}),
      encode_frame(
          {.type = FrameType::kCompareAndSet, .flags = kHasExpected, .key = "k", .value = "v", .expected = "e"}),
      encode_frame({.type = FrameType::kValue, .value = "value"}),
  };
  std::mt19937 random(2);
  for (int i = 0; i < 50'000; ++i) {
    std::string bytes(1, static_cast<char>(random() % 3));  // what the reader expects
    bytes += seeds[random() % seeds.size()];
    for (std::size_t changes = random() % 4; changes > 0; --changes) {
      bytes[random() % bytes.size()] = static_cast<char>(random() % 2 == 0 ? random() : random() % 3);
    }
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    if (random() % 4 == 0) bytes += seeds[random() % seeds.size()];
    feed(bytes);
  }
}

}  // namespace
}  // namespace lockstep::store
