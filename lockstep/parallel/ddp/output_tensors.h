#pragma once

#include <optional>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep::ddp {

/// True for types with begin() and end().
template <typename T>
concept Range = requires(const T& value) {
  value.begin();
  value.end();
};

template <typename T>
inline constexpr bool kIsTuple = false;
template <typename... Ts>
inline constexpr bool kIsTuple<std::tuple<Ts...>> = true;
template <typename A, typename B>
inline constexpr bool kIsTuple<std::pair<A, B>> = true;
template <typename T>
inline constexpr bool kIsOptional = false;
template <typename T>
inline constexpr bool kIsOptional<std::optional<T>> = true;

/// Appends the defined tensors in `value`, which forward took or returned: a tensor; a tuple, pair, optional, vector,
/// map or other range of such things; or a type of the program's own with a member `tensors()` that returns one of
/// those. Other types have none.
template <typename T>
void append_tensors(const T& value, std::vector<at::Tensor>& tensors) {
  if constexpr (std::is_base_of_v<at::Tensor, T>) {
    if (value.defined()) tensors.push_back(value);
  } else if constexpr (requires { value.tensors(); }) {
    append_tensors(value.tensors(), tensors);
  } else if constexpr (kIsTuple<T>) {
    std::apply([&](const auto&... parts) { (append_tensors(parts, tensors), ...); }, value);
  } else if constexpr (kIsOptional<T>) {
    if (value) append_tensors(*value, tensors);
  } else if constexpr (Range<T> && !std::is_convertible_v<T, std::string_view>) {
    for (const auto& part : value) append_tensors(part, tensors);
  }
}

template <typename... Ts>
std::vector<at::Tensor> tensors_in(const Ts&... values) {
  std::vector<at::Tensor> tensors;
  (append_tensors(values, tensors), ...);
  return tensors;
}

}  // namespace lockstep::ddp
