#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lockstep {

class ProcessGroup;

struct DistributedSamplerOptions {
  bool shuffle = true;
  std::uint64_t seed = 0;  ///< the same on all ranks
  bool drop_last = false;  ///< true: drop the tail instead of repeating the first samples
};

/// Splits [0, dataset_size) evenly over the ranks; index for index torch.utils.data.DistributedSampler's order:
/// randperm from a CPU generator seeded seed + epoch (or 0, 1, 2 ...), padded with its own beginning (or cut) to a
/// multiple of the ranks, of which rank r takes every world_size-th from r on.
///
/// With fewer samples than ranks, every rank gets one sample (repeated as often as needed), or none with drop_last.
/// seed + epoch is taken modulo 2^64. Where a shuffled order is taken again without set_epoch() in between, rank 0 logs
/// one warning: every epoch would have the same order.
///
/// Thread safety: const functions from any thread.
class DistributedSampler {
 public:
  /// UsageError for an empty dataset or a rank outside [0, world_size).
  DistributedSampler(std::size_t dataset_size, int rank, int world_size, DistributedSamplerOptions options = {});
  DistributedSampler(std::size_t dataset_size, const ProcessGroup& group, DistributedSamplerOptions options = {});

  /// Chooses the permutation; call it before each epoch, or the order repeats.
  void set_epoch(std::uint64_t epoch) noexcept {
    epoch_ = epoch;
    repetition_.taken = false;
  }
  std::uint64_t epoch() const noexcept { return epoch_; }
  /// This rank's samples of the epoch, in order. Cost: one permutation of the whole dataset.
  std::vector<std::int64_t> indices() const;
  /// Number of samples of this rank; the same on every rank.
  std::size_t size() const noexcept { return per_rank_; }
  /// How many of this rank's samples are repetitions that pad the last round (for exact evaluation counts): 0 or 1.
  /// They are the last ones of indices().
  std::size_t padding() const noexcept;

 private:
  /// Whether the order of this epoch was taken, and whether that it was taken twice was said. A copy begins anew.
  struct Repetition {
    Repetition() = default;
    Repetition(const Repetition& /*other*/) noexcept {}
    Repetition& operator=(const Repetition& /*other*/) noexcept {
      taken = said = false;
      return *this;
    }
    std::atomic<bool> taken{false};
    std::atomic<bool> said{false};
  };

  std::size_t dataset_size_;
  int rank_;
  int world_size_;
  DistributedSamplerOptions options_;
  std::size_t per_rank_;
  std::uint64_t epoch_ = 0;
  mutable Repetition repetition_;
};

}  // namespace lockstep
