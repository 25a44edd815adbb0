#include <cerrno>
#include <cstddef>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/data/dataset.h"
#include "lockstep/parallel/data/gather.h"
#include "lockstep/parallel/data/input_file.h"

namespace lockstep::data {
namespace {

constexpr std::uint64_t kPixels = 3 * 32 * 32;
constexpr std::uint64_t kRecord = 1 + kPixels;
constexpr int kClasses = 10;

std::vector<std::string> find_files(const std::string& directory, const std::string& split) {
  if (split == "test") return {directory + "/test_batch.bin"};
  std::vector<std::string> paths;
  for (int number = 1; number <= 5; ++number) {
    std::string path = base::cat(directory, "/data_batch_", number, ".bin");
    if (InputFile::exists(path)) paths.push_back(std::move(path));
  }
  if (paths.empty()) {
    throw SystemError(base::cat("data: cannot read ", directory, "/data_batch_1.bin, nor _2 to _5"), ENOENT);
  }
  return paths;
}

std::uint64_t count_records(const InputFile& file) {
  if (file.size() == 0) file.corrupt(0, "holds no records");
  const std::uint64_t rest = file.size() % kRecord;
  if (rest != 0) {
    file.corrupt(file.size() - rest, base::cat("truncated, or trailing bytes: ", rest,
                                               " bytes after the last record of ", kRecord, " bytes"));
  }
  return file.size() / kRecord;
}

}  // namespace

Cifar10Images::Cifar10Images(const std::string& directory, const std::string& split) {
  LS_REQUIRE(split == "train" || split == "test", "Cifar10Images: split '", split, "' is neither 'train' nor 'test'");
  std::vector<InputFile> files;
  std::uint64_t total = 0;
  for (const auto& path : find_files(directory, split)) {
    files.emplace_back(path);
    total += count_records(files.back());
  }
  images_ = at::empty({static_cast<std::int64_t>(total), 3, 32, 32}, at::dtype(at::kByte));
  labels_ = at::empty({static_cast<std::int64_t>(total)}, at::dtype(at::kLong));
  auto* image = images_.data_ptr<std::uint8_t>();
  auto* label = labels_.data_ptr<std::int64_t>();
  for (auto& file : files) {
    while (file.offset() < file.size()) {
      std::uint8_t byte = 0;
      file.read(&byte, 1);
      if (byte >= kClasses) {
        file.corrupt(file.offset() - 1, base::cat("label ", int{byte}, " is outside [0, ", kClasses, ")"));
      }
      *label++ = byte;
      file.read(image, kPixels);
      image += kPixels;
    }
  }
}

std::size_t Cifar10Images::size() const { return static_cast<std::size_t>(images_.size(0)); }

Batch Cifar10Images::get_batch(const std::vector<std::int64_t>& indices) const {
  return gather_images("Cifar10Images", images_, labels_, indices);
}

std::vector<std::int64_t> Cifar10Images::sample_shape() const { return images_.sizes().slice(1).vec(); }

}  // namespace lockstep::data
