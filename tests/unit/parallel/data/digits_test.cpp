// The committed data set: data/digits/README.md says what it must be.

#include <array>
#include <cmath>
#include <numeric>

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include "lockstep/parallel/data/dataset.h"

namespace lockstep::data {
namespace {

using Histogram = std::array<int, 10>;

struct Totals {
  Histogram labels{};
  std::int64_t pixels = 0;
};

Totals totals(const IdxImages& dataset) {
  std::vector<std::int64_t> all(dataset.size());
  std::iota(all.begin(), all.end(), 0);
  const Batch batch = dataset.get_batch(all);
  Totals result;
  for (std::size_t i = 0; i < all.size(); ++i) {
    ++result.labels.at(static_cast<std::size_t>(batch.target.data_ptr<std::int64_t>()[i]));
  }
  const float* pixel = batch.data.data_ptr<float>();
  for (std::int64_t i = 0; i < batch.data.numel(); ++i) result.pixels += std::lround(pixel[i] * 255.0F);
  return result;
}

TEST(Digits, TrainingSplit) {
  const IdxImages dataset(LOCKSTEP_DIGITS, "train");
  EXPECT_EQ(dataset.size(), 1440U);
  EXPECT_EQ(dataset.sample_shape(), (std::vector<std::int64_t>{1, 8, 8}));
  const Totals sums = totals(dataset);
  EXPECT_EQ(sums.labels, (Histogram{138, 144, 142, 157, 143, 136, 143, 148, 147, 142}));
  EXPECT_EQ(sums.pixels, 7185115);
}

TEST(Digits, TestSplit) {
  const IdxImages dataset(LOCKSTEP_DIGITS, "test");
  EXPECT_EQ(dataset.size(), 357U);
  EXPECT_EQ(dataset.sample_shape(), (std::vector<std::int64_t>{1, 8, 8}));
  const Totals sums = totals(dataset);
  EXPECT_EQ(sums.labels, (Histogram{40, 38, 35, 26, 38, 46, 38, 31, 27, 38}));
  EXPECT_EQ(sums.pixels, 1768686);
}

// The first line of digits.csv.gz, values of 0 to 16: a zero.
TEST(Digits, TheFirstTrainingImage) {
  constexpr std::array<int, 64> kSixteenths = {
      0, 0, 5,  13, 9,  1,  0, 0,  //
      0, 0, 13, 15, 10, 15, 5, 0,  //
      0, 3, 15, 2,  0,  11, 8, 0,  //
      0, 4, 12, 0,  0,  8,  8, 0,  //
      0, 5, 8,  0,  0,  9,  8, 0,  //
      0, 4, 11, 0,  1,  12, 7, 0,  //
      0, 2, 14, 5,  10, 12, 0, 0,  //
      0, 0, 6,  13, 10, 0,  0, 0,  //
  };
  const Batch batch = IdxImages(LOCKSTEP_DIGITS, "train").get_batch({0});
  EXPECT_EQ(batch.target.item<std::int64_t>(), 0);
  for (std::size_t i = 0; i < kSixteenths.size(); ++i) {
    EXPECT_NEAR(batch.data.data_ptr<float>()[i], static_cast<float>(kSixteenths.at(i)) / 16.0F, 0.002F) << i;
  }
}

}  // namespace
}  // namespace lockstep::data
