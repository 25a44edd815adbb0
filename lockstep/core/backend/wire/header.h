#pragma once
// What ranks say to each other before and beside the data: fixed-size values, so that no rank waits for a size.

#include <cstdint>
#include <string>

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/backend/wire/plan.h"

namespace lockstep::wire {

/// Channels of a group (transport.h).
inline constexpr int kFailureChannel = 0;
inline constexpr int kHeaderChannel = 1;
inline constexpr int kFirstChannel = 2;   ///< first exchange
inline constexpr int kSecondChannel = 3;  ///< second exchange
inline constexpr int kMessageChannel = 4;
inline constexpr int kMessageDataChannels = 16;  ///< from here on, one message each in turn
inline constexpr int kChannelsPerGroup = 4096;

/// What a rank says of an operation to every other rank. The payload, if any, follows it.
struct Header {
  std::uint64_t sequence = 0;
  std::uint64_t count = 0;
  std::uint64_t parts = 0;   ///< digest of the parts that all ranks must give alike; 0: equal parts
  std::uint64_t to_you = 0;  ///< elements that the receiver gets, of an unequal all_to_all
  double factor = 1;         ///< of the sender, for kPreMulSum
  union {
    std::uint64_t payload = 0;  ///< bytes
    std::uint64_t from_you;     ///< elements that the sender expects, of an unequal all_to_all: that has no payload
  };
  std::int32_t root = 0;
  std::uint8_t kind = 0;
  std::uint8_t dtype = 0;
  std::uint8_t op = 0;
  std::uint8_t unequal = 0;
  std::uint64_t origin = 0;  ///< as in Collective
};
static_assert(sizeof(Header) == 64);

/// Without to_you, from_you, factor and payload, which differ from rank to rank.
Header header_of(const Collective& collective);
/// True where both call the same.
bool agree(const Header& mine, const Header& theirs) noexcept;
/// Of what agree() compares: equal where they agree, and hardly ever elsewhere.
std::uint64_t digest_of(const Header& header) noexcept;
/// The call that it speaks of, for describe(); unequal parts are not known.
Collective call_of(const Header& header);

/// "rank 0 calls .., rank 2 calls ..": for a MismatchError. `call` describes `mine`.
std::string disagreement(const Header& mine, const std::string& call, int rank, const Header& theirs, int peer);

/// A message, before its bytes: beside it where they are at most kInlineBytes, else on a channel of their own.
struct MessageHeader {
  std::uint64_t count = 0;
  std::uint64_t number = 0;  ///< 1, 2, 3 ... of the large messages from this sender to this receiver; 0: small
  std::int32_t tag = 0;
  std::uint32_t dtype = 0;
};

}  // namespace lockstep::wire
