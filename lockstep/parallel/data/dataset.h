#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep::data {

/// Stacked samples. Images: data float32 [n, channels, height, width] in [0, 1], target int64 [n].
/// Text: data int64 [n, length], target int64 [n, length], the next byte of each position.
struct Batch {
  at::Tensor data;
  at::Tensor target;
};

/// Samples by index. Read whole at construction, immutable afterwards: safe from several threads.
class Dataset {
 public:
  virtual ~Dataset() = default;
  /// Number of samples.
  virtual std::size_t size() const = 0;
  /// The samples at `indices`, in that order. UsageError that names an index outside [0, size()).
  /// A Loader calls this on its own thread, beside the training: a plain loop over memory that is already there, no
  /// OpenMP or at::parallel_for (a second team of threads would fight the first for the cores), no waiting.
  virtual Batch get_batch(const std::vector<std::int64_t>& indices) const = 0;
  /// Shape of one sample's data: {channels, height, width} for images, {length} for text.
  virtual std::vector<std::int64_t> sample_shape() const = 0;
  /// Targets are in [0, num_classes).
  virtual std::int64_t num_classes() const = 0;
};

/// Images of one channel and labels in the IDX format of MNIST (big-endian; magic 0x00000803 and 0x00000801).
/// Files: <directory>/<split>-images-idx3-ubyte and <split>-labels-idx1-ubyte, where split is "train" or "test"
/// ("t10k" is accepted as the test split's file name, as MNIST names it).
/// Throws SystemError (a missing file), CorruptionError (wrong magic, truncated, trailing bytes, counts that disagree,
/// no images, a label outside [0, num_classes)); each names the file and the offset. UsageError for another split, or
/// num_classes outside [1, 256].
class IdxImages final : public Dataset {
 public:
  IdxImages(const std::string& directory, const std::string& split, std::int64_t num_classes = 10);
  std::size_t size() const override;
  Batch get_batch(const std::vector<std::int64_t>& indices) const override;
  std::vector<std::int64_t> sample_shape() const override;
  std::int64_t num_classes() const override { return num_classes_; }

 private:
  at::Tensor images_;  // uint8 [n, 1, height, width]
  at::Tensor labels_;  // int64 [n]
  std::int64_t num_classes_;
};

/// CIFAR-10's binary version: records of 1 label byte and 3 x 32 x 32 bytes (red, green, blue planes).
/// Files: <directory>/data_batch_1.bin .. data_batch_5.bin for "train" (those that exist, at least one),
/// test_batch.bin for "test". Failure as IdxImages.
class Cifar10Images final : public Dataset {
 public:
  Cifar10Images(const std::string& directory, const std::string& split);
  std::size_t size() const override;
  Batch get_batch(const std::vector<std::int64_t>& indices) const override;
  std::vector<std::int64_t> sample_shape() const override;
  std::int64_t num_classes() const override { return 10; }

 private:
  at::Tensor images_;  // uint8 [n, 3, 32, 32]
  at::Tensor labels_;  // int64 [n]
};

/// A text file as bytes, cut into samples of `length` bytes; the target is the text one byte further.
/// Throws SystemError (a missing file) and CorruptionError (shorter than length + 1).
class TextBytes final : public Dataset {
 public:
  TextBytes(const std::string& file, std::int64_t length);
  std::size_t size() const override;
  Batch get_batch(const std::vector<std::int64_t>& indices) const override;
  std::vector<std::int64_t> sample_shape() const override;
  std::int64_t num_classes() const override { return 256; }

 private:
  at::Tensor bytes_;  // uint8 [n]
  std::int64_t length_;
};

inline IdxImages idx_images(const std::string& directory, const std::string& split) { return {directory, split}; }
inline Cifar10Images cifar10_images(const std::string& directory, const std::string& split) {
  return {directory, split};
}
inline TextBytes text_bytes(const std::string& file, std::int64_t length) { return {file, length}; }

}  // namespace lockstep::data
