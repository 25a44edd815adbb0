#pragma once
// Internal: never included from a public header.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "lockstep/core/base/dtype.h"

namespace lockstep::ddp {

/// A slot begins at a multiple of this many bytes: a cache line, and the width of the widest vector.
inline constexpr std::size_t kSlotAlignment = 64;

/// What the plan needs to know of a parameter.
struct ParameterSize {
  std::int64_t numel = 0;
  DType dtype = DType::kFloat32;
};

/// DdpOptions::bucket_cap_bytes where the program leaves it open; `backend` as Communicator::backend_name() says.
std::size_t default_bucket_cap(std::string_view backend);

struct BucketCaps {
  std::size_t first_bytes = 0;  ///< of the first bucket of each dtype
  std::size_t bytes = 0;        ///< of the others
};

/// One flat buffer and the gradients in it.
struct BucketSpec {
  DType dtype = DType::kFloat32;
  std::vector<std::size_t> parameters;  ///< in the order in which they lie in the buffer
  std::vector<std::int64_t> offsets;    ///< of each one's slot, in elements
  std::int64_t numel = 0;               ///< of the whole buffer, padding included

  std::size_t nbytes() const noexcept { return static_cast<std::size_t>(numel) * size_of(dtype); }
  bool operator==(const BucketSpec&) const = default;
};

/// Deals the parameters into buckets, taking them in `order` (each index once): the order in which their gradients are
/// expected. Each bucket holds one dtype. A bucket is closed when the sizes of its parameters reach its cap, so it
/// exceeds the cap by less than one parameter (as PyTorch's does). Buckets come in the order in which they fill up.
std::vector<BucketSpec> plan_buckets(std::span<const ParameterSize> parameters, std::span<const std::size_t> order,
                                     BucketCaps caps);

}  // namespace lockstep::ddp
