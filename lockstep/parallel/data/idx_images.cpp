#include <cstddef>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/data/dataset.h"
#include "lockstep/parallel/data/gather.h"
#include "lockstep/parallel/data/input_file.h"

namespace lockstep::data {
namespace {

constexpr std::uint32_t kImagesMagic = 0x00000803;
constexpr std::uint32_t kLabelsMagic = 0x00000801;

void check_magic(InputFile& file, std::uint32_t expected) {
  const std::uint32_t magic = file.read_big_endian32();
  if (magic == expected) return;
  file.corrupt(0, base::cat("magic number 0x", std::hex, magic, ", expected 0x", expected));
}

// The rest of the file must be `count` items of `item` bytes. Divides, as their product may overflow.
void check_payload(const InputFile& file, std::uint64_t count, std::uint64_t item, const char* items) {
  const std::uint64_t payload = file.size() - file.offset();
  const std::uint64_t whole = payload / item;
  if (whole < count) {
    file.corrupt(file.size(), base::cat("truncated: ", payload, " bytes after the header hold ", whole, " of ", count,
                                        " ", items, " of ", item, " bytes"));
  }
  if (payload != count * item) {
    file.corrupt(file.offset() + count * item,
                 base::cat(payload - count * item, " trailing bytes after ", count, " ", items));
  }
}

at::Tensor read_images(InputFile file) {
  check_magic(file, kImagesMagic);
  const std::uint64_t count = file.read_big_endian32();
  const std::uint64_t height = file.read_big_endian32();
  const std::uint64_t width = file.read_big_endian32();
  if (count == 0) file.corrupt(4, "holds no images");
  if (height == 0 || width == 0) file.corrupt(8, base::cat("images of ", height, " x ", width, " pixels"));
  check_payload(file, count, height * width, "images");
  auto images = at::empty(
      {static_cast<std::int64_t>(count), 1, static_cast<std::int64_t>(height), static_cast<std::int64_t>(width)},
      at::dtype(at::kByte));
  file.read(images.data_ptr<std::uint8_t>(), count * height * width);
  return images;
}

at::Tensor read_labels(InputFile file, const std::string& images_path, std::int64_t images, std::int64_t num_classes) {
  check_magic(file, kLabelsMagic);
  const std::uint64_t count = file.read_big_endian32();
  if (count != static_cast<std::uint64_t>(images)) {
    file.corrupt(4, base::cat(count, " labels, but ", images_path, " holds ", images, " images"));
  }
  check_payload(file, count, 1, "labels");
  std::vector<std::uint8_t> bytes(count);
  file.read(bytes.data(), count);
  auto labels = at::empty({images}, at::dtype(at::kLong));
  auto* label = labels.data_ptr<std::int64_t>();
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] >= num_classes) {
      file.corrupt(8 + i, base::cat("label ", int{bytes[i]}, " is outside [0, ", num_classes, ")"));
    }
    label[i] = bytes[i];
  }
  return labels;
}

// The common beginning of the two files' names.
std::string find_prefix(const std::string& directory, const std::string& split) {
  const std::string prefix = directory + "/" + split;
  const std::string mnist = directory + "/t10k";
  const char* images = "-images-idx3-ubyte";
  const bool renamed = split == "test" && !InputFile::exists(prefix + images) && InputFile::exists(mnist + images);
  return renamed ? mnist : prefix;
}

}  // namespace

IdxImages::IdxImages(const std::string& directory, const std::string& split, std::int64_t num_classes)
    : num_classes_(num_classes) {
  LS_REQUIRE(split == "train" || split == "test", "IdxImages: split '", split, "' is neither 'train' nor 'test'");
  LS_REQUIRE(num_classes >= 1 && num_classes <= 256, "IdxImages: num_classes is ", num_classes,
             "; labels are bytes, so it must be in [1, 256]");
  const std::string prefix = find_prefix(directory, split);
  const std::string images_path = prefix + "-images-idx3-ubyte";
  images_ = read_images(InputFile(images_path));
  labels_ = read_labels(InputFile(prefix + "-labels-idx1-ubyte"), images_path, images_.size(0), num_classes);
}

std::size_t IdxImages::size() const { return static_cast<std::size_t>(images_.size(0)); }

Batch IdxImages::get_batch(const std::vector<std::int64_t>& indices) const {
  return gather_images("IdxImages", images_, labels_, indices);
}

std::vector<std::int64_t> IdxImages::sample_shape() const { return images_.sizes().slice(1).vec(); }

}  // namespace lockstep::data
