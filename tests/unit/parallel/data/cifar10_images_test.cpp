#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/parallel/data/dataset.h"
#include "tests/unit/parallel/data/data_files.h"

namespace lockstep::data {
namespace {

constexpr std::size_t kRecord = 3073;

// Byte b of the image with this label is label + b, modulo 256.
Bytes record(std::uint8_t label) {
  Bytes bytes{label};
  for (std::size_t b = 0; b + 1 < kRecord; ++b) bytes.push_back(static_cast<std::uint8_t>(label + b));
  return bytes;
}

void expect_corrupt(const TempDirectory& directory, const std::string& file, std::uint64_t offset,
                    const std::string& text) {
  try {
    const Cifar10Images images(directory.path(), "train");
    FAIL() << "no error; expected: " << text;
  } catch (const CorruptionError& error) {
    EXPECT_EQ(error.file(), directory / file);
    EXPECT_EQ(error.offset(), offset);
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

TEST(Cifar10Images, JoinsTheTrainingFilesThatExistInOrder) {
  const TempDirectory directory;
  directory.write("data_batch_4.bin", record(4) + record(5) + record(6));
  directory.write("data_batch_1.bin", record(9));
  const auto dataset = cifar10_images(directory.path(), "train");
  ASSERT_EQ(dataset.size(), 4U);
  EXPECT_EQ(dataset.sample_shape(), (std::vector<std::int64_t>{3, 32, 32}));
  EXPECT_EQ(dataset.num_classes(), 10);
  const Batch batch = dataset.get_batch({3, 0});
  ASSERT_EQ(batch.data.sizes(), (std::vector<std::int64_t>{2, 3, 32, 32}));
  EXPECT_EQ(batch.target[0].item<std::int64_t>(), 6);
  EXPECT_EQ(batch.target[1].item<std::int64_t>(), 9);
  const float* value = batch.data.data_ptr<float>();
  for (const std::size_t label : {6U, 9U}) {
    for (std::size_t b = 0; b + 1 < kRecord; ++b) ASSERT_EQ(*value++, static_cast<float>((label + b) % 256) / 255.0F);
  }
  EXPECT_THROW(dataset.get_batch({4}), UsageError);
}

TEST(Cifar10Images, TheTestSplitIsOneFile) {
  const TempDirectory directory;
  directory.write("test_batch.bin", record(1) + record(2));
  EXPECT_EQ(Cifar10Images(directory.path(), "test").size(), 2U);
  EXPECT_THROW(Cifar10Images(directory.path(), "train"), SystemError) << "no training file at all";
  EXPECT_THROW(Cifar10Images(directory.path(), "valid"), UsageError);
}

TEST(Cifar10Images, TruncatedAndOversized) {
  const TempDirectory directory;
  directory.write("data_batch_1.bin", record(0));
  Bytes bytes = record(1) + record(2);
  bytes.pop_back();
  directory.write("data_batch_2.bin", bytes);
  expect_corrupt(directory, "data_batch_2.bin", kRecord, "truncated");
  directory.write("data_batch_2.bin", record(1) + Bytes{1});
  expect_corrupt(directory, "data_batch_2.bin", kRecord, "1 bytes after the last record");
  directory.write("data_batch_2.bin", Bytes(7));
  expect_corrupt(directory, "data_batch_2.bin", 0, "7 bytes");
  directory.write("data_batch_2.bin", {});
  expect_corrupt(directory, "data_batch_2.bin", 0, "holds no records");
}

TEST(Cifar10Images, ALabelOutOfRange) {
  const TempDirectory directory;
  directory.write("data_batch_1.bin", record(0) + record(9));
  directory.write("data_batch_5.bin", record(3) + record(10) + record(1));
  expect_corrupt(directory, "data_batch_5.bin", kRecord, "label 10 is outside [0, 10)");
}

}  // namespace
}  // namespace lockstep::data
