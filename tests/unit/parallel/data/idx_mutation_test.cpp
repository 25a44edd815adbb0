// Random damage to a small valid pair of files, the same in every run: either a typed error, or a dataset that keeps
// its promises.

#include <numeric>
#include <random>

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/parallel/data/dataset.h"
#include "tests/unit/parallel/data/data_files.h"

namespace lockstep::data {
namespace {

class Damage {
 public:
  explicit Damage(std::uint32_t seed) : random_(seed) {}

  // Not std::uniform_int_distribution, whose numbers differ between standard libraries.
  std::size_t below(std::size_t bound) { return random_() % bound; }

  void apply(Bytes& bytes) {
    const std::size_t at = below(bytes.size() + 1);
    const auto here = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    switch (below(6)) {
      case 0: bytes.resize(at); break;
      case 1: bytes.insert(here, below(9), byte()); break;
      case 2:
        if (at < bytes.size()) bytes[at] = byte();
        break;
      case 3:
        if (at < bytes.size()) bytes[at] ^= static_cast<std::uint8_t>(1U << below(8));
        break;
      case 4:
        if (at < bytes.size()) bytes.erase(here);
        break;
      default:  // the header's numbers, towards their limits
        for (std::size_t i = at % 16 / 4 * 4, end = i + 4; i < end && i < bytes.size(); ++i) bytes[i] = byte();
    }
  }

 private:
  std::uint8_t byte() {
    constexpr std::uint8_t kEdges[] = {0x00, 0x01, 0x03, 0x08, 0x7f, 0x80, 0xff};
    return below(2) == 0 ? kEdges[below(std::size(kEdges))] : static_cast<std::uint8_t>(below(256));
  }
  std::mt19937 random_;
};

void check_promises(const Dataset& dataset) {
  std::vector<std::int64_t> all(dataset.size());
  std::iota(all.begin(), all.end(), 0);
  const Batch batch = dataset.get_batch(all);
  ASSERT_EQ(batch.data.size(0), batch.target.size(0));
  for (std::int64_t i = 0; i < batch.data.numel(); ++i) {
    const float pixel = batch.data.data_ptr<float>()[i];
    ASSERT_TRUE(pixel >= 0.0F && pixel <= 1.0F) << pixel;
  }
  for (std::int64_t i = 0; i < batch.target.numel(); ++i) {
    const std::int64_t label = batch.target.data_ptr<std::int64_t>()[i];
    ASSERT_TRUE(label >= 0 && label < dataset.num_classes()) << label;
  }
}

TEST(IdxMutation, DamageGivesATypedErrorOrAValidDataset) {
  const TempDirectory directory;
  int rejected = 0;
  int accepted = 0;
  for (std::uint32_t seed = 0; seed < 4000; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Damage damage(seed);
    Bytes images = idx_images_file();
    Bytes labels = idx_labels_file();
    const std::size_t times = 1 + damage.below(3);
    for (std::size_t i = 0; i < times; ++i) damage.apply(damage.below(2) == 0 ? images : labels);
    directory.write("train-images-idx3-ubyte", images);
    directory.write("train-labels-idx1-ubyte", labels);
    try {
      const IdxImages dataset(directory.path(), "train");
      ASSERT_NO_FATAL_FAILURE(check_promises(dataset));
      ++accepted;
    } catch (const CorruptionError& error) {
      ASSERT_EQ(error.file().rfind(directory.path(), 0), 0U) << error.what();
      ++rejected;
    }
  }
  EXPECT_GT(rejected, 1000);
  EXPECT_GT(accepted, 100) << "pixels and labels are free to change";
}

}  // namespace
}  // namespace lockstep::data
