#include "lockstep/parallel/sentinel/checksum.h"

#include <cstring>
#include <set>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace lockstep::sentinel {
namespace {

std::vector<std::byte> counted(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 37 + 11);
  return bytes;
}

TEST(SentinelChecksum, EveryBitCounts) {
  for (const std::size_t size : {1U, 7U, 8U, 63U, 64U, 65U, 127U, 128U, 200U}) {
    std::vector<std::byte> bytes = counted(size);
    std::set<std::uint64_t> seen = {checksum(bytes)};
    for (std::size_t bit = 0; bit < size * 8; ++bit) {
      bytes[bit / 8] ^= static_cast<std::byte>(1U << bit % 8);
      EXPECT_TRUE(seen.insert(checksum(bytes)).second) << "size " << size << " bit " << bit;
      bytes[bit / 8] ^= static_cast<std::byte>(1U << bit % 8);
    }
    EXPECT_EQ(checksum(bytes), checksum(counted(size)));
  }
}

TEST(SentinelChecksum, LengthsOfZerosDiffer) {
  const std::vector<std::byte> zeros(300);
  std::set<std::uint64_t> seen;
  for (std::size_t size = 0; size <= zeros.size(); ++size) seen.insert(checksum({zeros.data(), size}));
  EXPECT_EQ(seen.size(), zeros.size() + 1);
}

TEST(SentinelChecksum, OrderCounts) {
  std::vector<std::byte> bytes = counted(192);
  const std::uint64_t before = checksum(bytes);
  std::swap_ranges(bytes.begin(), bytes.begin() + 64, bytes.begin() + 64);  // Two whole stripes.
  EXPECT_NE(checksum(bytes), before);
  EXPECT_NE(combine(1, 2), combine(2, 1));
  EXPECT_NE(combine(0, 1), combine(0, 2));
}

TEST(SentinelChecksum, TensorsOfEqualElementsAgreeWhateverTheirStrides) {
  const at::Tensor plain = at::arange(24, at::kFloat).reshape({2, 3, 2, 2});
  EXPECT_EQ(tensor_checksum(plain.contiguous(at::MemoryFormat::ChannelsLast)), tensor_checksum(plain));
  EXPECT_EQ(tensor_checksum(plain.transpose(0, 1).contiguous().transpose(0, 1)), tensor_checksum(plain));
  at::Tensor other = plain.clone();
  other[1][2][1][1] = 24;
  EXPECT_NE(tensor_checksum(other), tensor_checksum(plain));
  EXPECT_NE(tensor_checksum(at::zeros({1})), tensor_checksum(-at::zeros({1}))) << "bits, not values";
  EXPECT_EQ(tensor_checksum(at::zeros({0})), tensor_checksum(at::zeros({0, 3})));
}

TEST(SentinelChecksum, SampledIsOfEightPiecesFromTheStartToTheEnd) {
  std::vector<std::byte> bytes = counted(1001);
  EXPECT_EQ(sampled_checksum({bytes.data(), 512}, 64), checksum({bytes.data(), 512}));
  const std::uint64_t before = sampled_checksum(bytes, 64);
  bytes[70] ^= std::byte{1};  // Between the first two pieces.
  EXPECT_EQ(sampled_checksum(bytes, 64), before);
  bytes[1000] ^= std::byte{1};
  EXPECT_NE(sampled_checksum(bytes, 64), before);
}

TEST(SentinelChecksum, AProbeSeesAnOptimizersStep) {
  at::Tensor parameter = at::ones({100, 100}).requires_grad_();
  parameter.mutable_grad() = at::ones({100, 100});
  torch::optim::SGD optimizer({parameter}, 0.1);
  const std::uint64_t before = probe(parameter);
  optimizer.step();
  EXPECT_NE(probe(parameter), before);
  EXPECT_EQ(probe(at::ones({1}).expand({5})), 0U);
}

}  // namespace
}  // namespace lockstep::sentinel
