#include "lockstep/core/backend/buffers.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "lockstep/core/backend/packed.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/error.h"

namespace lockstep {
namespace {

std::size_t sum_of(std::span<const std::size_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), std::size_t{0});
}

bool overlap(const void* a, std::size_t a_nbytes, const void* b, std::size_t b_nbytes) {
  const auto a_begin = reinterpret_cast<std::uintptr_t>(a);
  const auto b_begin = reinterpret_cast<std::uintptr_t>(b);
  return a_nbytes != 0 && b_nbytes != 0 && a_begin < b_begin + b_nbytes && b_begin < a_begin + a_nbytes;
}

/// body(input, its bytes, output, its bytes) for each of the caller's buffers, until one returns true.
template <typename Body>
bool any_buffer(const Collective& collective, const Extent& extent, Body body) {
  if (!collective.packed) return body(collective.input, extent.input, collective.output, extent.output);
  for (std::size_t i = 0; i < collective.packed->size(); ++i) {
    const Packed::Buffer one = collective.packed->buffer(i);
    if (body(one.input, one.input_nbytes, one.output, one.output_nbytes)) return true;
  }
  return false;
}

}  // namespace

Extent extent_of(const Collective& collective, int rank, int world_size) {
  const std::size_t width = size_of(collective.dtype);
  const std::size_t one = collective.count * width;
  const std::size_t all = one * static_cast<std::size_t>(world_size);
  const bool is_root = collective.root == rank;
  if (!collective.counts.empty()) {
    const std::size_t own = collective.counts[static_cast<std::size_t>(rank)] * width;
    if (collective.kind == OpKind::kAllGather) return {own, one};
    if (collective.kind == OpKind::kReduceScatter) return {one, own};
    return {one, sum_of(collective.recv_counts) * width};
  }
  switch (collective.kind) {
    case OpKind::kAllReduce: return {one, one};
    case OpKind::kReduce: return {one, is_root ? one : 0};
    case OpKind::kBroadcast: return {0, one};
    case OpKind::kReduceScatter: return {all, one};
    case OpKind::kAllGather: return {one, all};
    case OpKind::kGather: return {one, is_root ? all : 0};
    case OpKind::kScatter: return {is_root ? all : 0, one};
    case OpKind::kAllToAll: return {all, all};
    default: return {};
  }
}

bool conflict(const Collective& later, const Extent& later_extent, const Collective& earlier,
              const Extent& earlier_extent) {
  return any_buffer(
      later, later_extent, [&](const void* in, std::size_t in_nbytes, const void* out, std::size_t out_nbytes) {
        return any_buffer(earlier, earlier_extent,
                          [&](const void* from, std::size_t from_nbytes, const void* to, std::size_t to_nbytes) {
                            return overlap(in, in_nbytes, to, to_nbytes) || overlap(out, out_nbytes, to, to_nbytes) ||
                                   overlap(out, out_nbytes, from, from_nbytes);
                          });
      });
}

std::vector<std::size_t> offsets_of(std::span<const std::size_t> counts) {
  std::vector<std::size_t> offsets;
  if (counts.empty()) return offsets;
  offsets.reserve(counts.size() + 1);
  offsets.push_back(0);
  for (const std::size_t count : counts) offsets.push_back(offsets.back() + count);
  return offsets;
}

BackendMemory allocate_host_memory(std::size_t nbytes) {
  constexpr std::size_t kPage = 4096;
  const std::size_t size = (nbytes + kPage - 1) / kPage * kPage + (nbytes == 0 ? kPage : 0);
  void* const data = std::aligned_alloc(kPage, size);
  if (data == nullptr) throw SystemError(base::cat("allocating ", nbytes, " bytes"), ENOMEM);
  std::memset(data, 0, size);
  return {std::shared_ptr<void>(data, std::free), data, size};
}

}  // namespace lockstep
