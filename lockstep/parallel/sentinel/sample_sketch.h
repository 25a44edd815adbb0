#pragma once
// Internal: never included from a public header.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep::sentinel {

inline constexpr std::size_t kSketchSize = 256;

/// What the ranks tell each other of the rows they saw. Plain bytes.
struct SketchRecord {
  std::array<std::uint64_t, kSketchSize> hashes{};  ///< the smallest distinct ones, ascending
  std::array<std::uint64_t, 2> batches{};           ///< checksums of the first two batches, in order of rows
  std::uint32_t count = 0;                          ///< of hashes
  std::uint32_t batch_count = 0;
  std::uint8_t frozen = 0;
  std::uint8_t constant = 0;  ///< the second batch is the first one again
  std::uint8_t several = 0;   ///< each of the first two batches has more than one distinct row
  std::uint8_t padding[5] = {};
};

/// The rows that one rank saw in its first epoch, as the 256 smallest of their hashes: two ranks' sketches have common
/// entries in the proportion in which the ranks' rows are common (Broder 1997; Beyer et al. 2007, "KMV synopses").
///
/// The epoch ends where rows come again: at the second distinct row that was in the sketch already. One alone may be a
/// duplicate in the data. Rows that are drawn with replacement, or that take few values, therefore end it after about
/// the square root of the number of values, before ranks have many in common by chance.
class SampleSketch {
 public:
  void add_batch(std::span<const std::uint64_t> rows);
  /// No row counts any more: the data cannot be hashed.
  void freeze() noexcept { record_.frozen = 1; }
  bool frozen() const noexcept { return record_.frozen != 0; }
  const SketchRecord& record() const noexcept { return record_; }

 private:
  void add_row(std::uint64_t row);

  SketchRecord record_;
  std::optional<std::uint64_t> repeated_;
  std::int64_t rows_ = 0;
};

struct Overlap {
  std::size_t shared = 0;  ///< hashes that both have
  std::size_t of = 0;      ///< hashes of the rank that has fewer, in the range of values that both sketches cover
};
Overlap overlap_of(const SketchRecord& a, const SketchRecord& b) noexcept;

/// Both ranks read the same batches in the same order: the first two are equal, and not to each other.
bool same_batches(const SketchRecord& a, const SketchRecord& b) noexcept;
/// The two ranks see the same samples: the overlap is far above what chance and repeated samples give.
bool same_samples(const SketchRecord& a, const SketchRecord& b) noexcept;

/// A pair of ranks that see the same samples, a < b.
struct SamplePair {
  int a = 0;
  int b = 0;
};
/// The pairs among those that exchange number `exchange` compares: all of them where `all` or the ranks are few, else
/// those at some distances, which change from exchange to exchange until each has had its turn.
std::vector<SamplePair> find_same_samples(std::span<const SketchRecord> ranks, std::size_t exchange, bool all);

/// One hash for each row (dim 0) of `batch`: of its bytes, or of 4 KiB in eight pieces where it has more. Nothing for a
/// tensor that is not dense, not on the CPU, or has no rows.
std::vector<std::uint64_t> hash_rows(const at::Tensor& batch);

}  // namespace lockstep::sentinel
