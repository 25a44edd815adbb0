#include "lockstep/parallel/data/gather.h"

#include <array>
#include <cstddef>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "lockstep/core/base/check.h"

namespace lockstep::data {
namespace {

// byte / 255.0F, correctly rounded: what Python's uint8 tensor divided by 255 gives. A lookup is as fast as the
// memory, where a division is not.
constexpr std::array<float, 256> kUnit = [] {
  std::array<float, 256> unit{};
  for (std::size_t byte = 0; byte < unit.size(); ++byte) unit[byte] = static_cast<float>(byte) / 255.0F;
  return unit;
}();

}  // namespace

void check_indices(const std::string& dataset, const std::vector<std::int64_t>& indices, std::size_t size) {
  for (const std::int64_t index : indices) {
    LS_REQUIRE(index >= 0 && static_cast<std::size_t>(index) < size, dataset, ": index ", index, " is outside [0, ",
               size, ")");
  }
}

Batch gather_images(const std::string& dataset, const at::Tensor& images, const at::Tensor& labels,
                    const std::vector<std::int64_t>& indices) {
  check_indices(dataset, indices, static_cast<std::size_t>(images.size(0)));
  auto shape = images.sizes().vec();
  const std::int64_t pixels = shape[1] * shape[2] * shape[3];
  shape[0] = static_cast<std::int64_t>(indices.size());
  Batch batch{at::empty(shape, at::dtype(at::kFloat)), at::empty({shape[0]}, at::dtype(at::kLong))};
  const auto* from = images.data_ptr<std::uint8_t>();
  const auto* label = labels.data_ptr<std::int64_t>();
  auto* to = batch.data.data_ptr<float>();
  auto* target = batch.target.data_ptr<std::int64_t>();
  for (const std::int64_t index : indices) {
    const std::uint8_t* image = from + index * pixels;
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel) to[pixel] = kUnit[image[pixel]];
    to += pixels;
    *target++ = label[index];
  }
  return batch;
}

}  // namespace lockstep::data
