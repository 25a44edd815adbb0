#include "lockstep/core/store/wire.h"

#include "lockstep/core/store/store_limits.h"

namespace lockstep::store {
namespace {

constexpr std::string_view kMagic = "LST\x01";  // the last byte is the version of the protocol

void put_int(std::string& out, std::uint64_t number, int nbytes) {
  for (int i = 0; i < nbytes; ++i) out += static_cast<char>(number >> (8 * i) & 0xFF);
}

std::uint64_t get_int(std::string_view bytes) {
  std::uint64_t number = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) number = number << 8 | static_cast<unsigned char>(bytes[i]);
  return number;
}

/// The first 16 bytes of a frame.
struct FrameHeader {
  FrameType type = FrameType::kHello;
  std::uint8_t flags = 0;
  std::size_t key_nbytes = 0;
  std::size_t value_nbytes = 0;
  std::size_t expected_nbytes = 0;
  std::size_t payload_nbytes() const noexcept { return key_nbytes + value_nbytes + expected_nbytes; }
};

FrameHeader decode_header(std::string_view bytes) {
  FrameHeader header;
  header.type = static_cast<FrameType>(bytes[4]);
  header.flags = static_cast<std::uint8_t>(bytes[5]);
  header.key_nbytes = get_int(bytes.substr(6, 2));
  header.value_nbytes = get_int(bytes.substr(8, 4));
  header.expected_nbytes = get_int(bytes.substr(12, 4));
  return header;
}

/// What a type may carry.
struct Shape {
  bool key = false;
  std::size_t least_value = 0;
  std::size_t most_value = 0;
  bool expected = false;
};

std::optional<Shape> shape_of(FrameType type, Expect expect) {
  if (expect == Expect::kReply) {
    switch (type) {
      case FrameType::kMissing: return Shape{};
      case FrameType::kValue: return Shape{.most_value = kMaxValueNbytes};
      case FrameType::kUsage:
      case FrameType::kRefused:
      case FrameType::kBusy:
      case FrameType::kMalformed: return Shape{.most_value = 64 << 10};
      default: return std::nullopt;
    }
  }
  if (expect == Expect::kHello) {
    if (type != FrameType::kHello) return std::nullopt;
    return Shape{.most_value = kMaxTokenNbytes};
  }
  switch (type) {
    case FrameType::kSet: return Shape{.key = true, .most_value = kMaxValueNbytes};
    case FrameType::kGet:
    case FrameType::kTryGet:
    case FrameType::kErase: return Shape{.key = true};
    case FrameType::kAdd: return Shape{.key = true, .least_value = 8, .most_value = 8};
    case FrameType::kCompareAndSet: return Shape{.key = true, .most_value = kMaxValueNbytes, .expected = true};
    default: return std::nullopt;
  }
}

/// Why the header cannot be; nullptr when it can.
const char* find_fault(const FrameHeader& header, Expect expect) {
  const auto shape = shape_of(header.type, expect);
  if (!shape) return expect == Expect::kHello ? "expected a hello first" : "unknown frame type";
  if (header.flags != 0 && !(shape->expected && header.flags == kHasExpected)) return "unknown flags";
  if (shape->key ? header.key_nbytes < 1 || header.key_nbytes > kMaxKeyNbytes : header.key_nbytes != 0) {
    return "key length out of range";
  }
  if (header.value_nbytes < shape->least_value || header.value_nbytes > shape->most_value) {
    return "value length out of range";
  }
  const std::size_t most_expected = header.flags == kHasExpected ? kMaxValueNbytes : 0;
  if (header.expected_nbytes > most_expected) return "expected value's length out of range";
  return nullptr;
}

ParsedFrame malformed(const char* reason) {
  ParsedFrame parsed;
  parsed.status = ParsedFrame::Status::kMalformed;
  parsed.reason = reason;
  return parsed;
}

}  // namespace

std::string encode_frame(const Frame& frame) {
  std::string out;
  out.reserve(kFrameHeaderNbytes + frame.key.size() + frame.value.size() + frame.expected.size());
  out += kMagic;
  put_int(out, static_cast<std::uint8_t>(frame.type), 1);
  put_int(out, frame.flags, 1);
  put_int(out, frame.key.size(), 2);
  put_int(out, frame.value.size(), 4);
  put_int(out, frame.expected.size(), 4);
  return out.append(frame.key).append(frame.value).append(frame.expected);
}

ParsedFrame parse_frame(std::string_view bytes, Expect expect) {
  const std::string_view start = bytes.substr(0, kMagic.size());
  if (!kMagic.starts_with(start)) {
    const bool other_version = bytes.size() >= kMagic.size() && start.substr(0, 3) == kMagic.substr(0, 3);
    return malformed(other_version ? "another version of the protocol" : "not a frame of this protocol");
  }
  ParsedFrame parsed;
  parsed.nbytes = kFrameHeaderNbytes;
  if (bytes.size() < kFrameHeaderNbytes) return parsed;
  const FrameHeader header = decode_header(bytes);
  if (const char* const fault = find_fault(header, expect)) return malformed(fault);
  parsed.nbytes += header.payload_nbytes();
  if (bytes.size() < parsed.nbytes) return parsed;
  parsed.status = ParsedFrame::Status::kFrame;
  parsed.frame.type = header.type;
  parsed.frame.flags = header.flags;
  parsed.frame.key = bytes.substr(kFrameHeaderNbytes, header.key_nbytes);
  parsed.frame.value = bytes.substr(kFrameHeaderNbytes + header.key_nbytes, header.value_nbytes);
  parsed.frame.expected =
      bytes.substr(kFrameHeaderNbytes + header.key_nbytes + header.value_nbytes, header.expected_nbytes);
  return parsed;
}

std::string encode_int(std::int64_t number) {
  std::string out;
  put_int(out, static_cast<std::uint64_t>(number), 8);
  return out;
}

std::optional<std::int64_t> decode_int(std::string_view bytes) {
  if (bytes.size() != 8) return std::nullopt;
  return static_cast<std::int64_t>(get_int(bytes));
}

bool equal_in_constant_time(std::string_view received, std::string_view secret) noexcept {
  std::size_t difference = received.size() ^ secret.size();
  for (std::size_t i = 0; i < received.size(); ++i) {
    const char other = secret.empty() ? '\0' : secret[i % secret.size()];
    difference |= static_cast<unsigned char>(received[i] ^ other);
  }
  return difference == 0;
}

}  // namespace lockstep::store
