#include "lockstep/parallel/sentinel/sample_sketch.h"

#include <algorithm>
#include <limits>

#include <ATen/ATen.h>

#include "lockstep/parallel/sentinel/checksum.h"

namespace lockstep::sentinel {
namespace {

constexpr std::int64_t kMostRows = std::int64_t{1} << 22;  // An endless stream has no epoch to wait for.
constexpr std::size_t kFewestShared = 32;                  // Less is chance, where rows take few values.
constexpr std::size_t kShare = 4;                          // One in so many rows must be shared.
constexpr std::size_t kDistances = 8;                      // Compared in one exchange.
constexpr std::size_t kPiece = 512;                        // Of a row, of which eight are read.

bool has_several(std::span<const std::uint64_t> rows) {
  return std::ranges::any_of(rows, [&](std::uint64_t row) { return row != rows[0]; });
}

/// Values above this are not covered by the sketch.
std::uint64_t limit_of(const SketchRecord& record) noexcept {
  return record.count == kSketchSize ? record.hashes[kSketchSize - 1] : std::numeric_limits<std::uint64_t>::max();
}

}  // namespace

void SampleSketch::add_batch(std::span<const std::uint64_t> rows) {
  if (frozen() || rows.empty()) return;
  if (record_.batch_count < record_.batches.size()) {
    std::uint64_t sum = rows.size();
    for (const std::uint64_t row : rows) sum = combine(sum, row);
    record_.batches[record_.batch_count] = sum;
    const bool several = has_several(rows);
    record_.several = several && (record_.batch_count == 0 || record_.several != 0) ? 1 : 0;
    record_.constant = record_.batch_count == 1 && record_.batches[0] == record_.batches[1] ? 1 : 0;
  }
  ++record_.batch_count;
  if (record_.constant != 0) freeze();
  for (const std::uint64_t row : rows) {
    if (frozen()) return;
    add_row(row);
  }
}

void SampleSketch::add_row(std::uint64_t row) {
  if (++rows_ > kMostRows) return freeze();
  if (row > limit_of(record_)) return;
  const auto begin = record_.hashes.begin();
  const auto end = begin + record_.count;
  const auto place = std::lower_bound(begin, end, row);
  if (place != end && *place == row) {
    if (repeated_ && *repeated_ != row) freeze();
    repeated_ = row;
    return;
  }
  const bool full = record_.count == kSketchSize;
  std::move_backward(place, full ? end - 1 : end, full ? end : end + 1);
  *place = row;
  if (!full) ++record_.count;
}

Overlap overlap_of(const SketchRecord& a, const SketchRecord& b) noexcept {
  const std::uint64_t limit = std::min(limit_of(a), limit_of(b));
  std::size_t i = 0;
  std::size_t j = 0;
  std::size_t shared = 0;
  while (i < a.count && j < b.count) {
    const std::uint64_t x = a.hashes[i];
    const std::uint64_t y = b.hashes[j];
    shared += x == y ? 1 : 0;
    i += x <= y ? 1 : 0;
    j += y <= x ? 1 : 0;
  }
  const auto covered = [limit](const SketchRecord& record) {
    const auto end = record.hashes.begin() + record.count;
    return static_cast<std::size_t>(std::upper_bound(record.hashes.begin(), end, limit) - record.hashes.begin());
  };
  return {shared, std::min(covered(a), covered(b))};
}

bool same_batches(const SketchRecord& a, const SketchRecord& b) noexcept {
  const bool usable = std::min(a.batch_count, b.batch_count) >= 2 && a.several != 0 && a.constant == 0;
  return usable && a.batches == b.batches;
}

bool same_samples(const SketchRecord& a, const SketchRecord& b) noexcept {
  // The same batch again and again, as benchmarks use it, is nobody's data.
  if (std::min(a.batch_count, b.batch_count) < 2 || a.constant != 0 || b.constant != 0) return false;
  const Overlap overlap = overlap_of(a, b);
  return overlap.shared >= kFewestShared && overlap.shared * kShare >= overlap.of;
}

std::vector<SamplePair> find_same_samples(std::span<const SketchRecord> ranks, std::size_t exchange, bool all) {
  const std::size_t size = ranks.size();
  const std::size_t distances = size / 2;  // Around the ring of ranks every pair is at one of these.
  const std::size_t compared = all ? distances : std::min(distances, kDistances);
  std::vector<SamplePair> found;
  for (std::size_t i = 0; i < compared; ++i) {
    const std::size_t distance = 1 + (exchange * kDistances + i) % distances;
    const std::size_t pairs = 2 * distance == size ? distance : size;
    for (std::size_t rank = 0; rank < pairs; ++rank) {
      const std::size_t other = (rank + distance) % size;
      if (!same_batches(ranks[rank], ranks[other]) && !same_samples(ranks[rank], ranks[other])) continue;
      found.push_back({static_cast<int>(std::min(rank, other)), static_cast<int>(std::max(rank, other))});
    }
  }
  return found;
}

std::vector<std::uint64_t> hash_rows(const at::Tensor& batch) {
  const bool usable = batch.defined() && batch.layout() == at::kStrided && batch.device().is_cpu() && batch.dim() > 0 &&
                      batch.numel() > 0 && !batch.is_conj() && !batch.is_neg();
  if (!usable) return {};
  // A row is one block of memory in channels-last images and in slices along dim 0 as well.
  const at::Tensor rows = batch.select(0, 0).is_non_overlapping_and_dense() ? batch : batch.contiguous();
  const auto count = static_cast<std::size_t>(rows.size(0));
  const std::size_t nbytes = rows.nbytes() / count;
  const auto stride = static_cast<std::ptrdiff_t>(rows.stride(0)) * static_cast<std::ptrdiff_t>(rows.element_size());
  const auto* row = static_cast<const std::byte*>(rows.data_ptr());
  std::vector<std::uint64_t> hashes(count);
  for (std::size_t i = 0; i < count; ++i)
    hashes[i] = sampled_checksum({row + static_cast<std::ptrdiff_t>(i) * stride, nbytes}, kPiece);
  return hashes;
}

}  // namespace lockstep::sentinel
