#include "lockstep/parallel/sentinel/checksum.h"

#include <array>
#include <cstring>

#include <ATen/ATen.h>

namespace lockstep::sentinel {
namespace {

using Wide = unsigned __int128;

constexpr std::size_t kLanes = 4;
constexpr std::size_t kPieces = 8;
constexpr std::size_t kProbe = 64;
constexpr std::size_t kStripe = kLanes * 2 * sizeof(std::uint64_t);

// Odd and with as many ones as zeros: digits of pi.
constexpr std::array<std::uint64_t, kLanes> kSecrets = {0x243f6a8885a308d3ULL, 0x13198a2e03707345ULL,
                                                        0xa4093822299f31d1ULL, 0x082efa98ec4e6c89ULL};

std::uint64_t fold(std::uint64_t a, std::uint64_t b) noexcept {
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

using Lanes = std::array<std::uint64_t, kLanes>;

void take_stripe(Lanes& lanes, const std::byte* stripe) noexcept {
  std::array<std::uint64_t, 2 * kLanes> words;
  std::memcpy(words.data(), stripe, kStripe);
  for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = fold(lanes[i] ^ words[2 * i], kSecrets[i] ^ words[2 * i + 1]);
}

}  // namespace

std::uint64_t checksum(std::span<const std::byte> bytes) noexcept {
  Lanes lanes = {~kSecrets[0], ~kSecrets[1], ~kSecrets[2], ~kSecrets[3]};
  const std::size_t whole = bytes.size() / kStripe * kStripe;
  for (std::size_t at = 0; at < whole; at += kStripe) take_stripe(lanes, bytes.data() + at);
  if (whole < bytes.size()) {
    std::array<std::byte, kStripe> rest{};
    std::memcpy(rest.data(), bytes.data() + whole, bytes.size() - whole);
    take_stripe(lanes, rest.data());
  }
  std::uint64_t sum = static_cast<std::uint64_t>(bytes.size());
  for (const std::uint64_t lane : lanes) sum = combine(sum, lane);
  return sum;
}

std::uint64_t sampled_checksum(std::span<const std::byte> bytes, std::size_t piece) noexcept {
  if (bytes.size() <= piece * kPieces) return checksum(bytes);
  std::uint64_t sum = bytes.size();
  for (std::size_t i = 0; i < kPieces; ++i) {
    sum = combine(sum, checksum(bytes.subspan((bytes.size() - piece) * i / (kPieces - 1), piece)));
  }
  return sum;
}

std::uint64_t combine(std::uint64_t first, std::uint64_t second) noexcept {
  // The inner product may lose what a zero multiplies; the rotation keeps `second` even then.
  const std::uint64_t turned = second << 32 | second >> 32;
  return fold(fold(first ^ kSecrets[0], second ^ kSecrets[1]) ^ turned, kSecrets[2]);
}

std::uint64_t tensor_checksum(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.detach().contiguous();
  return checksum({static_cast<const std::byte*>(dense.data_ptr()), dense.nbytes()});
}

std::uint64_t probe(const at::Tensor& tensor) {
  if (!tensor.is_non_overlapping_and_dense()) return 0;
  return sampled_checksum({static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()}, kProbe);
}

}  // namespace lockstep::sentinel
