// The parser of the store's frames, given anything. The first byte says what the reader expects, the rest is input.
// With libFuzzer: clang++ -std=c++20 -g -I. -fsanitize=fuzzer,address,undefined
//                   tests/fuzz/store_frame_fuzz.cpp lockstep/core/store/wire.cpp

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "lockstep/core/store/wire.h"

namespace {

using lockstep::store::Expect;
using lockstep::store::ParsedFrame;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "store frame: %s\n", what);
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto expect = static_cast<Expect>(data[0] % 3);
  std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  for (;;) {
    const ParsedFrame parsed = lockstep::store::parse_frame(bytes, expect);
    if (parsed.status == ParsedFrame::Status::kMalformed) {
      require(*parsed.reason != '\0', "malformed for no reason");
      return 0;
    }
    if (parsed.status == ParsedFrame::Status::kIncomplete) {
      require(parsed.nbytes > bytes.size(), "waits for bytes that are there");
      require(parsed.nbytes <= 16 + 1024 + 2 * (std::size_t{64} << 20), "waits for more than a frame may have");
      return 0;
    }
    require(parsed.nbytes >= 16 && parsed.nbytes <= bytes.size(), "a frame beyond its bytes");
    require(encode_frame(parsed.frame) == bytes.substr(0, parsed.nbytes), "a frame that does not encode to its bytes");
    for (const std::size_t cut : {std::size_t{0}, std::size_t{3}, std::size_t{15}, parsed.nbytes - 1}) {
      const ParsedFrame part = lockstep::store::parse_frame(bytes.substr(0, cut), expect);
      require(part.status == ParsedFrame::Status::kIncomplete, "a part of a frame that is not incomplete");
    }
    bytes.remove_prefix(parsed.nbytes);
  }
}
