#include <sys/stat.h>

#include <cerrno>
#include <filesystem>

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/parallel/data/dataset.h"
#include "tests/unit/parallel/data/data_files.h"

namespace lockstep::data {
namespace {

class IdxImagesTest : public testing::Test {
 protected:
  void write(const Bytes& images, const Bytes& labels, const std::string& split = "train") const {
    directory_.write(split + "-images-idx3-ubyte", images);
    directory_.write(split + "-labels-idx1-ubyte", labels);
  }
  void expect_corrupt(const std::string& file, std::uint64_t offset, const std::string& text) const {
    try {
      const IdxImages images(directory_.path(), "train");
      FAIL() << "no error; expected: " << text;
    } catch (const CorruptionError& error) {
      EXPECT_EQ(error.file(), directory_ / file);
      EXPECT_EQ(error.offset(), offset);
      const std::string what = error.what();
      EXPECT_EQ(what.find(error.file() + ": offset " + std::to_string(offset) + ": "), 0U) << what;
      EXPECT_NE(what.find(text), std::string::npos) << what;
    }
  }

  const std::string images_name_ = "train-images-idx3-ubyte";
  const std::string labels_name_ = "train-labels-idx1-ubyte";
  TempDirectory directory_;
};

TEST_F(IdxImagesTest, ReadsImagesAndLabels) {
  write(idx_images_file(), idx_labels_file());
  const auto dataset = idx_images(directory_.path(), "train");
  EXPECT_EQ(dataset.size(), 3U);
  EXPECT_EQ(dataset.sample_shape(), (std::vector<std::int64_t>{1, 2, 3}));
  EXPECT_EQ(dataset.num_classes(), 10);
  const Batch batch = dataset.get_batch({2, 0, 2});
  ASSERT_EQ(batch.data.sizes(), (std::vector<std::int64_t>{3, 1, 2, 3}));
  ASSERT_EQ(batch.data.scalar_type(), at::kFloat);
  ASSERT_EQ(batch.target.sizes(), (std::vector<std::int64_t>{3}));
  ASSERT_EQ(batch.target.scalar_type(), at::kLong);
  ASSERT_TRUE(batch.data.is_contiguous());
  const float* pixel = batch.data.data_ptr<float>();
  for (const int image : {2, 0, 2}) {
    for (int i = 0; i < 6; ++i) EXPECT_EQ(*pixel++, static_cast<float>(50 * image + 10 * i) / 255.0F);
  }
  EXPECT_EQ(batch.target[0].item<std::int64_t>(), 9);
  EXPECT_EQ(batch.target[1].item<std::int64_t>(), 7);
  EXPECT_EQ(batch.target[2].item<std::int64_t>(), 9);
}

TEST_F(IdxImagesTest, EveryByteBecomesByteOver255) {
  Bytes pixels;
  for (int byte = 0; byte < 256; ++byte) pixels.push_back(static_cast<std::uint8_t>(byte));
  write(big_endian({0x803, 1, 16, 16}) + pixels, big_endian({0x801, 1}) + Bytes{0});
  const Batch batch = IdxImages(directory_.path(), "train").get_batch({0});
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(batch.data.data_ptr<float>()[byte], static_cast<float>(byte) / 255.0F);
  }
}

TEST_F(IdxImagesTest, AnEmptyBatchIsEmpty) {
  write(idx_images_file(), idx_labels_file());
  const Batch batch = IdxImages(directory_.path(), "train").get_batch({});
  EXPECT_EQ(batch.data.sizes(), (std::vector<std::int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(batch.target.sizes(), (std::vector<std::int64_t>{0}));
}

TEST_F(IdxImagesTest, RejectsAnIndexOutside) {
  write(idx_images_file(), idx_labels_file());
  const IdxImages dataset(directory_.path(), "train");
  for (const std::int64_t index : {std::int64_t{3}, std::int64_t{-1}, std::int64_t{1} << 40}) {
    try {
      dataset.get_batch({0, index});
      FAIL() << "no error for " << index;
    } catch (const UsageError& error) {
      EXPECT_EQ(error.what(), "IdxImages: index " + std::to_string(index) + " is outside [0, 3)");
    }
  }
}

TEST_F(IdxImagesTest, TheTestSplitMayBeNamedAsMnistNamesIt) {
  write(idx_images_file(), idx_labels_file(), "t10k");
  EXPECT_EQ(IdxImages(directory_.path(), "test").size(), 3U);
  EXPECT_THROW(IdxImages(directory_.path(), "train"), SystemError);
  write(big_endian({0x803, 1, 1, 1}) + Bytes{5}, big_endian({0x801, 1}) + Bytes{4}, "test");
  EXPECT_EQ(IdxImages(directory_.path(), "test").size(), 1U) << "'test' comes first";
}

TEST_F(IdxImagesTest, AMissingFileIsNamed) {
  const auto expect_missing = [this](const std::string& split, const std::string& name) {
    try {
      const IdxImages images(directory_.path(), split);
      FAIL() << "no error";
    } catch (const SystemError& error) {
      EXPECT_EQ(error.code(), ENOENT);
      EXPECT_NE(std::string(error.what()).find(directory_ / name), std::string::npos) << error.what();
    }
  };
  expect_missing("train", images_name_);
  expect_missing("test", "test-images-idx3-ubyte");
  directory_.write(images_name_, idx_images_file());
  expect_missing("train", labels_name_);
}

TEST_F(IdxImagesTest, ADirectoryAndAPipeAreNoFiles) {
  std::filesystem::create_directory(directory_ / images_name_);
  EXPECT_THROW(IdxImages(directory_.path(), "train"), SystemError);
  std::filesystem::remove(directory_ / images_name_);
  ASSERT_EQ(::mkfifo((directory_ / images_name_).c_str(), 0600), 0);
  EXPECT_THROW(IdxImages(directory_.path(), "train"), UsageError) << "opening a pipe would wait for its writer";
}

TEST_F(IdxImagesTest, WrongMagic) {
  write(big_endian({0x00000802, 3, 2, 3}) + Bytes(18), idx_labels_file());
  expect_corrupt(images_name_, 0, "magic number 0x802, expected 0x803");
  write(idx_images_file(), big_endian({0x00000803, 3}) + Bytes{7, 0, 9});
  expect_corrupt(labels_name_, 0, "magic number 0x803, expected 0x801");
  write(big_endian({0x03080000, 3, 2, 3}) + Bytes(18), idx_labels_file());
  expect_corrupt(images_name_, 0, "magic number 0x3080000");
}

TEST_F(IdxImagesTest, TruncatedAnywhere) {
  const Bytes images = idx_images_file();
  for (std::size_t length = 0; length < images.size(); ++length) {
    write(Bytes(images.begin(), images.begin() + static_cast<std::ptrdiff_t>(length)), idx_labels_file());
    expect_corrupt(images_name_, length, "truncated");
  }
  const Bytes labels = idx_labels_file();
  for (std::size_t length = 0; length < labels.size(); ++length) {
    write(images, Bytes(labels.begin(), labels.begin() + static_cast<std::ptrdiff_t>(length)));
    expect_corrupt(labels_name_, length, "truncated");
  }
}

TEST_F(IdxImagesTest, TrailingBytes) {
  write(idx_images_file() + Bytes{1}, idx_labels_file());
  expect_corrupt(images_name_, 34, "1 trailing bytes after 3 images");
  write(idx_images_file() + Bytes(6), idx_labels_file());
  expect_corrupt(images_name_, 34, "6 trailing bytes after 3 images");
  write(idx_images_file(), idx_labels_file() + Bytes{0, 0});
  expect_corrupt(labels_name_, 11, "2 trailing bytes after 3 labels");
}

TEST_F(IdxImagesTest, CountsThatDisagree) {
  write(idx_images_file(), big_endian({0x801, 2}) + Bytes{7, 0});
  expect_corrupt(labels_name_, 4, "2 labels, but " + directory_ / images_name_ + " holds 3 images");
}

TEST_F(IdxImagesTest, ALabelOutOfRange) {
  write(idx_images_file(), big_endian({0x801, 3}) + Bytes{7, 10, 9});
  expect_corrupt(labels_name_, 9, "label 10 is outside [0, 10)");
  EXPECT_EQ(IdxImages(directory_.path(), "train", 11).num_classes(), 11);
  write(idx_images_file(), big_endian({0x801, 3}) + Bytes{255, 0, 0});
  EXPECT_NO_THROW(IdxImages(directory_.path(), "train", 256));
  EXPECT_THROW(IdxImages(directory_.path(), "train", 255), CorruptionError);
}

// Products of the header's numbers that overflow 64 bits, or that no machine could reserve memory for.
TEST_F(IdxImagesTest, AHeaderThatClaimsTooMuchReservesNothing) {
  write(big_endian({0x803, 0xffffffff, 0xffffffff, 0xffffffff}) + Bytes(18), idx_labels_file());
  expect_corrupt(images_name_, 34, "truncated");
  write(big_endian({0x803, 0x80000000, 0x80000000, 4}) + Bytes(18), idx_labels_file());
  expect_corrupt(images_name_, 34, "truncated");
  write(idx_images_file(), big_endian({0x801, 0xffffffff}) + Bytes(3));
  expect_corrupt(labels_name_, 4, "4294967295 labels");
}

TEST_F(IdxImagesTest, NothingInIt) {
  write(big_endian({0x803, 0, 2, 3}), big_endian({0x801, 0}));
  expect_corrupt(images_name_, 4, "holds no images");
  write(big_endian({0x803, 3, 0, 3}), idx_labels_file());
  expect_corrupt(images_name_, 8, "images of 0 x 3 pixels");
  write(big_endian({0x803, 3, 2, 0}), idx_labels_file());
  expect_corrupt(images_name_, 8, "images of 2 x 0 pixels");
}

TEST_F(IdxImagesTest, RejectsBadArguments) {
  write(idx_images_file(), idx_labels_file());
  EXPECT_THROW(IdxImages(directory_.path(), "validation"), UsageError);
  EXPECT_THROW(IdxImages(directory_.path(), "t10k"), UsageError);
  EXPECT_THROW(IdxImages(directory_.path(), "train", 0), UsageError);
  EXPECT_THROW(IdxImages(directory_.path(), "train", 257), UsageError);
}

}  // namespace
}  // namespace lockstep::data
