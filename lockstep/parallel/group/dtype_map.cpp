#include "lockstep/parallel/group/dtype_map.h"

#include <array>
#include <utility>

#include "lockstep/core/base/check.h"

namespace lockstep::group {
namespace {

constexpr std::array<std::pair<DType, at::ScalarType>, kDTypeCount> kPairs = {{
    {DType::kFloat32, at::kFloat},
    {DType::kFloat64, at::kDouble},
    {DType::kFloat16, at::kHalf},
    {DType::kBFloat16, at::kBFloat16},
    {DType::kInt8, at::kChar},
    {DType::kUInt8, at::kByte},
    {DType::kInt32, at::kInt},
    {DType::kInt64, at::kLong},
    {DType::kBool, at::kBool},
}};

}  // namespace

at::ScalarType to_torch(DType dtype) {
  for (const auto& [core, torch] : kPairs) {
    if (core == dtype) return torch;
  }
  LS_CHECK(false, "dtype ", static_cast<int>(dtype), " has no counterpart in libtorch");
}

std::optional<DType> from_torch(at::ScalarType type) noexcept {
  for (const auto& [core, torch] : kPairs) {
    if (torch == type) return core;
  }
  return std::nullopt;
}

std::string dtype_name(at::ScalarType type) {
  if (const auto dtype = from_torch(type)) return std::string(name_of(*dtype));
  return at::toString(type);
}

std::string shape_text(at::IntArrayRef sizes) {
  std::string text = "[";
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(sizes[i]);
  }
  return text + "]";
}

std::string tensor_text(const at::Tensor& tensor) {
  if (!tensor.defined()) return "undefined";
  std::string text = base::cat(dtype_name(tensor.scalar_type()), " ", shape_text(tensor.sizes()));
  if (tensor.layout() != at::kStrided) {
    text += base::cat(" (", tensor.layout(), ")");
  } else if (!tensor.is_contiguous()) {
    text += base::cat(" with strides ", shape_text(tensor.strides()));
  }
  if (!tensor.device().is_cpu()) text += base::cat(" on ", tensor.device());
  return text;
}

}  // namespace lockstep::group
