#pragma once
// Internal to the room. Plain loops on one thread: an ATen operation of this size would open a second OpenMP team on
// the loader's thread, which fights the training's team for the cores.

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/parallel/data/dataset.h"

namespace lockstep::data {

/// UsageError "<dataset>: index i is outside [0, size)" for the first such index.
void check_indices(const std::string& dataset, const std::vector<std::int64_t>& indices, std::size_t size);

/// images uint8 [n, c, h, w], labels int64 [n] -> the batch at `indices`, pixels divided by 255. Checks the indices.
Batch gather_images(const std::string& dataset, const at::Tensor& images, const at::Tensor& labels,
                    const std::vector<std::int64_t>& indices);

}  // namespace lockstep::data
