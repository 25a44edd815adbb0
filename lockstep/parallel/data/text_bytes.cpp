#include <algorithm>
#include <cstddef>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/data/dataset.h"
#include "lockstep/parallel/data/gather.h"
#include "lockstep/parallel/data/input_file.h"

namespace lockstep::data {

TextBytes::TextBytes(const std::string& file, std::int64_t length) : length_(length) {
  LS_REQUIRE(length >= 1, "TextBytes: length is ", length, "; a sample has at least 1 byte");
  InputFile input(file);
  if (input.size() <= static_cast<std::uint64_t>(length)) {
    input.corrupt(input.size(), base::cat("too short: one sample of ", length, " bytes and the byte after it need ",
                                          static_cast<std::uint64_t>(length) + 1));
  }
  bytes_ = at::empty({static_cast<std::int64_t>(input.size())}, at::dtype(at::kByte));
  input.read(bytes_.data_ptr<std::uint8_t>(), input.size());
}

std::size_t TextBytes::size() const { return static_cast<std::size_t>((bytes_.size(0) - 1) / length_); }

Batch TextBytes::get_batch(const std::vector<std::int64_t>& indices) const {
  check_indices("TextBytes", indices, size());
  const auto count = static_cast<std::int64_t>(indices.size());
  Batch batch{at::empty({count, length_}, at::dtype(at::kLong)), at::empty({count, length_}, at::dtype(at::kLong))};
  const auto* bytes = bytes_.data_ptr<std::uint8_t>();
  auto* data = batch.data.data_ptr<std::int64_t>();
  auto* target = batch.target.data_ptr<std::int64_t>();
  for (const std::int64_t index : indices) {
    const std::uint8_t* first = bytes + index * length_;
    data = std::copy(first, first + length_, data);
    target = std::copy(first + 1, first + 1 + length_, target);
  }
  return batch;
}

std::vector<std::int64_t> TextBytes::sample_shape() const { return {length_}; }

}  // namespace lockstep::data
