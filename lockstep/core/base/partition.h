#pragma once

#include <cstddef>

namespace lockstep {

/// A half-open range of elements.
struct Range {
  std::size_t begin = 0;
  std::size_t end = 0;
  constexpr std::size_t size() const noexcept { return end - begin; }
  constexpr bool empty() const noexcept { return begin == end; }
  friend constexpr bool operator==(const Range&, const Range&) = default;
};

/// The chunk of `count` elements that belongs to `index` of `parts`.
///
/// Chunks are contiguous, in order, cover everything exactly once, and begin on multiples of `granularity` elements
/// (use the elements of a cache line so that two ranks never write one line). Sizes differ by at most one granule;
/// the last non-empty chunk may be cut short. Pure. Requires parts > 0, 0 <= index < parts, granularity > 0.
constexpr Range partition(std::size_t count, std::size_t parts, std::size_t index,
                          std::size_t granularity = 1) noexcept {
  const std::size_t granules = (count + granularity - 1) / granularity;
  const std::size_t base = granules / parts;
  const std::size_t extra = granules % parts;
  const std::size_t first = index * base + (index < extra ? index : extra);
  const std::size_t last = first + base + (index < extra ? 1 : 0);
  const auto clip = [count](std::size_t at) { return at < count ? at : count; };
  return {clip(first * granularity), clip(last * granularity)};
}

}  // namespace lockstep
