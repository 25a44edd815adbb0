#pragma once
// Internal: never included from a public header.

#include <cstddef>
#include <cstdint>
#include <span>

#include <ATen/core/Tensor.h>

namespace lockstep::sentinel {

/// 64 bits that differ, up to chance (2^-64), where bytes or lengths differ. Not for adversaries, not for files: it
/// depends on the byte order of the machine.
/// Cost: one pass; four independent chains of one 64-bit multiplication per 16 bytes, faster than memory.
/// Source: multiply and fold the halves of the 128-bit product, as in wyhash (Wang Yi) and XXH3 (Collet).
std::uint64_t checksum(std::span<const std::byte> bytes) noexcept;

/// The same of at most eight pieces of `piece` bytes, spread from the start to the end.
std::uint64_t sampled_checksum(std::span<const std::byte> bytes, std::size_t piece) noexcept;

/// A checksum of two, in this order.
std::uint64_t combine(std::uint64_t first, std::uint64_t second) noexcept;

/// Of the elements in row-major order, whatever the strides: equal tensors of different layouts have equal checksums.
/// A tensor that is not contiguous is copied for it. `tensor` is dense and on the CPU.
std::uint64_t tensor_checksum(const at::Tensor& tensor);

/// Of 64 bytes in eight places: tells whether an optimizer stepped on a parameter. Version counters do not: libtorch's
/// optimizers write to parameter.data(), which has one of its own. 0 for a tensor with holes.
std::uint64_t probe(const at::Tensor& tensor);

}  // namespace lockstep::sentinel
