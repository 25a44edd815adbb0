#pragma once
// Internal: never included from a public header.

#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "lockstep/core/base/dtype.h"

namespace lockstep::group {

/// libtorch's name of a core dtype.
at::ScalarType to_torch(DType dtype);

/// The core dtype of `type`; nothing for types that core does not carry (complex, quantised, int16).
std::optional<DType> from_torch(at::ScalarType type) noexcept;

/// The short name of messages: "f32", or libtorch's own name for types that core does not carry.
std::string dtype_name(at::ScalarType type);

/// "[84, 120]".
std::string shape_text(at::IntArrayRef sizes);

/// What a tensor is, for messages: "f32 [84, 120]", with the strides where it is not contiguous and the device where
/// it is not the CPU.
std::string tensor_text(const at::Tensor& tensor);

}  // namespace lockstep::group
