#pragma once
// Internal. The frames between the TCP store's server and its clients; docs/formats/store_wire.md is their description.
// Pure: no socket, no clock.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lockstep::store {

enum class FrameType : std::uint8_t {
  // Requests.
  kHello = 1,
  kSet = 2,
  kGet = 3,
  kTryGet = 4,
  kAdd = 5,
  kCompareAndSet = 6,
  kErase = 7,
  // Replies.
  kValue = 128,      ///< done; the value is the result
  kMissing = 129,    ///< try_get: there is no such key
  kUsage = 130,      ///< the request was wrong (UsageError); the value is the reason; the connection goes on
  kRefused = 131,    ///< wrong token (UsageError); the server closes the connection
  kBusy = 132,       ///< too many clients; the server closes the connection
  kMalformed = 133,  ///< the frame was not understood; the server closes the connection
};

inline constexpr std::size_t kFrameHeaderNbytes = 16;
inline constexpr std::size_t kMaxTokenNbytes = 1024;

/// Flag of kCompareAndSet: an expected value is present (without it the key must not exist).
inline constexpr std::uint8_t kHasExpected = 1;

/// One request or reply. The views are those of the caller of encode_frame(), or into the bytes that were parsed.
struct Frame {
  FrameType type = FrameType::kHello;
  std::uint8_t flags = 0;
  std::string_view key = {};
  std::string_view value = {};     ///< what is set, the token, the amount (8 bytes), the desired value, the result
  std::string_view expected = {};  ///< kCompareAndSet only
};

/// What the reader can take now: before its hello a client may send nothing else, so that it cannot fill memory.
enum class Expect { kHello, kRequest, kReply };

/// Outcome of looking at the bytes received so far.
struct ParsedFrame {
  enum class Status { kIncomplete, kFrame, kMalformed };
  Status status = Status::kIncomplete;
  Frame frame;              ///< kFrame
  std::size_t nbytes = 0;   ///< kFrame: what it occupies; kIncomplete: what is needed at least, in all
  const char* reason = "";  ///< kMalformed
};

std::string encode_frame(const Frame& frame);

/// Looks at the frame that begins at bytes[0]. A header that breaks a bound is malformed as soon as it is there, before
/// any of what it announces.
ParsedFrame parse_frame(std::string_view bytes, Expect expect);

/// Integers inside values: 8 bytes, little-endian.
std::string encode_int(std::int64_t number);
std::optional<std::int64_t> decode_int(std::string_view bytes);

/// Compares without telling by its duration where the two differ: it depends on the length of `received` only.
bool equal_in_constant_time(std::string_view received, std::string_view secret) noexcept;

}  // namespace lockstep::store
