#include <limits>

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/parallel/data/dataset.h"
#include "tests/unit/parallel/data/data_files.h"

namespace lockstep::data {
namespace {

std::string text_of(const at::Tensor& row) {
  std::string text;
  for (std::int64_t i = 0; i < row.size(0); ++i) text += static_cast<char>(row[i].item<std::int64_t>());
  return text;
}

Bytes bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

TEST(TextBytes, TargetIsOneByteFurther) {
  const TempDirectory directory;
  directory.write("text", bytes_of("abcdefgh"));
  const auto dataset = text_bytes(directory / "text", 3);
  ASSERT_EQ(dataset.size(), 2U);
  EXPECT_EQ(dataset.sample_shape(), (std::vector<std::int64_t>{3}));
  EXPECT_EQ(dataset.num_classes(), 256);
  const Batch batch = dataset.get_batch({1, 0});
  ASSERT_EQ(batch.data.sizes(), (std::vector<std::int64_t>{2, 3}));
  ASSERT_EQ(batch.target.sizes(), (std::vector<std::int64_t>{2, 3}));
  ASSERT_EQ(batch.data.scalar_type(), at::kLong);
  ASSERT_EQ(batch.target.scalar_type(), at::kLong);
  EXPECT_EQ(text_of(batch.data[0]), "def");
  EXPECT_EQ(text_of(batch.target[0]), "efg");
  EXPECT_EQ(text_of(batch.data[1]), "abc");
  EXPECT_EQ(text_of(batch.target[1]), "bcd");
  EXPECT_THROW(dataset.get_batch({2}), UsageError);
  EXPECT_THROW(dataset.get_batch({-1}), UsageError);
}

TEST(TextBytes, TheLastSampleNeedsOneByteMore) {
  const TempDirectory directory;
  for (const std::int64_t length : {1, 2, 3, 7}) {
    for (std::int64_t nbytes = length + 1; nbytes <= 4 * length + 2; ++nbytes) {
      SCOPED_TRACE(testing::Message() << nbytes << " bytes, samples of " << length);
      Bytes bytes;
      for (std::int64_t i = 0; i < nbytes; ++i) bytes.push_back(static_cast<std::uint8_t>(200 + i));
      directory.write("text", bytes);
      const TextBytes dataset(directory / "text", length);
      ASSERT_EQ(dataset.size(), static_cast<std::size_t>((nbytes - 1) / length));
      const auto last = static_cast<std::int64_t>(dataset.size()) - 1;
      const Batch batch = dataset.get_batch({last});
      ASSERT_EQ(batch.target[0][length - 1].item<std::int64_t>(), 200 + (last + 1) * length) << "bytes are unsigned";
    }
  }
}

TEST(TextBytes, TooShortOrMissing) {
  const TempDirectory directory;
  EXPECT_THROW(TextBytes(directory / "text", 3), SystemError);
  for (const std::size_t nbytes : {0, 1, 3}) {
    directory.write("text", Bytes(nbytes));
    try {
      const TextBytes dataset(directory / "text", 3);
      FAIL() << "no error for " << nbytes << " bytes";
    } catch (const CorruptionError& error) {
      EXPECT_EQ(error.file(), directory / "text");
      EXPECT_EQ(error.offset(), nbytes);
      EXPECT_NE(std::string(error.what()).find("need 4"), std::string::npos) << error.what();
    }
  }
  directory.write("text", Bytes(4));
  EXPECT_EQ(TextBytes(directory / "text", 3).size(), 1U);
  EXPECT_THROW(TextBytes(directory / "text", std::numeric_limits<std::int64_t>::max()), CorruptionError);
}

TEST(TextBytes, RejectsALengthThatIsNoLength) {
  const TempDirectory directory;
  directory.write("text", Bytes(4));
  EXPECT_THROW(TextBytes(directory / "text", 0), UsageError);
  EXPECT_THROW(TextBytes(directory / "text", -1), UsageError);
}

}  // namespace
}  // namespace lockstep::data
