#pragma once
// Internal: never included from a public header.
//
// From facts to what a person reads; nothing here communicates.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace lockstep::sentinel {

inline constexpr std::size_t kGradientSamples = 64;

/// Elements of a rank's gradients before and after averaging, from the same places on all ranks. Plain bytes.
struct GradientSample {
  std::array<float, kGradientSamples> before{};
  std::array<float, kGradientSamples> after{};
  std::uint32_t count = 0;
  std::uint32_t padding = 0;
};

enum class GradientVerdict {
  kMean,     ///< after is the mean over the ranks of before, or nothing speaks against it
  kSummed,   ///< it is the sum
  kLocal,    ///< on some rank it is what that rank had before
  kUnknown,  ///< something else, as lossy compression leaves it
};
struct GradientJudgement {
  GradientVerdict verdict = GradientVerdict::kMean;
  std::vector<int> ranks;  ///< that kLocal is about; of kSummed all
};
/// Compares with the mean of what the ranks had before, to 5 % of the largest magnitude: fp16 on the wire passes.
/// Places where a rank has no finite number do not count, nor samples of different counts.
GradientJudgement judge_gradients(std::span<const GradientSample> ranks);

/// The ranks whose value is not that of most; where two values are as frequent, the one of the lowest rank stands.
std::vector<int> minority(std::span<const std::uint64_t> values);

/// "rank 1", "ranks 0 and 2", "ranks 0, 1 and 5"; of more than eight the first eight and how many there are.
std::string ranks_text(std::span<const int> ranks);

/// What is known where parameters are found to differ.
struct Divergence {
  std::int64_t step = 0;
  std::int64_t equal_until = 0;  ///< last step at which they were found equal; 0: never
  std::string tensor = {};       ///< the first that differs
  std::size_t differing = 0;     ///< how many tensors do
  std::size_t tensors = 0;
  std::vector<int> ranks = {};            ///< the minority
  std::string settings_difference = {};   ///< of optimizers; empty: none
  std::vector<int> stepped_locally = {};  ///< ranks whose optimizer stepped on gradients that were not averaged
  bool gradients_differ = false;          ///< averaging did not take place on some rank
};
/// What differs, on which ranks, and the likely mistake: the first cause that the facts allow.
std::string divergence_text(const Divergence& facts);

}  // namespace lockstep::sentinel
