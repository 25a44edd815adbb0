#include "lockstep/parallel/sentinel/diagnosis.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/sentinel/sentinel.h"

namespace lockstep {

std::string_view name_of(FindingKind kind) noexcept {
  constexpr std::array<std::string_view, kFindingKinds> kNames = {
      "optimizer settings differ", "optimizer lacks parameters", "parameters differ",  "gradients not averaged",
      "gradients summed",          "gradients reduced twice",    "parameters reduced", "same samples"};
  return kNames[static_cast<std::size_t>(kind)];
}

namespace sentinel {
namespace {

constexpr double kTolerance = 0.05;  // Of the largest magnitude: fp16 and bf16 on the wire stay far below.
constexpr std::size_t kMostRanks = 8;

/// One place of the sample, on all ranks.
struct Place {
  double mean = 0;
  double largest = 0;  // Magnitude.
  bool finite = true;
};

Place place_of(std::span<const GradientSample> ranks, std::size_t i) {
  Place place;
  for (const GradientSample& rank : ranks) {
    const double before = rank.before[i];
    place.finite = place.finite && std::isfinite(before) && std::isfinite(rank.after[i]);
    place.mean += before / static_cast<double>(ranks.size());
    place.largest = std::max(place.largest, std::abs(before));
  }
  return place;
}

std::vector<int> all_of(std::size_t size) {
  std::vector<int> ranks;
  for (std::size_t rank = 0; rank < size; ++rank) ranks.push_back(static_cast<int>(rank));
  return ranks;
}

}  // namespace

GradientJudgement judge_gradients(std::span<const GradientSample> ranks) {
  const std::uint32_t count = ranks[0].count;
  const bool alike = std::ranges::all_of(ranks, [&](const GradientSample& rank) { return rank.count == count; });
  if (!alike || count == 0) return {};
  const auto size = static_cast<double>(ranks.size());
  double largest = 0;
  double from_mean = 0;
  double from_sum = 0;
  std::vector<double> from_mean_of(ranks.size());
  std::vector<bool> kept(ranks.size(), true);  // after == before, to the last bit
  for (std::size_t i = 0; i < count; ++i) {
    const Place place = place_of(ranks, i);
    if (!place.finite) continue;
    largest = std::max(largest, place.largest);
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
      const double after = ranks[rank].after[i];
      from_mean_of[rank] = std::max(from_mean_of[rank], std::abs(after - place.mean));
      from_sum = std::max(from_sum, std::abs(after - size * place.mean));
      if (ranks[rank].after[i] != ranks[rank].before[i]) kept[rank] = false;
    }
  }
  from_mean = *std::ranges::max_element(from_mean_of);
  // Twice the tolerance from the mean, and within it from the other: the two can not be confused.
  if (from_mean <= 2 * kTolerance * largest) return {};
  if (from_sum <= kTolerance * largest) return {GradientVerdict::kSummed, all_of(ranks.size())};
  GradientJudgement local{GradientVerdict::kLocal, {}};
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    if (kept[rank] && from_mean_of[rank] > 2 * kTolerance * largest) local.ranks.push_back(static_cast<int>(rank));
  }
  return local.ranks.empty() ? GradientJudgement{GradientVerdict::kUnknown, {}} : local;
}

std::vector<int> minority(std::span<const std::uint64_t> values) {
  std::map<std::uint64_t, std::size_t> frequency;
  for (const std::uint64_t value : values) ++frequency[value];
  std::uint64_t usual = values[0];
  for (const std::uint64_t value : values) {
    if (frequency[value] > frequency[usual]) usual = value;
  }
  std::vector<int> others;
  for (std::size_t rank = 0; rank < values.size(); ++rank) {
    if (values[rank] != usual) others.push_back(static_cast<int>(rank));
  }
  return others;
}

std::string ranks_text(std::span<const int> ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  const std::size_t shown = std::min(ranks.size(), kMostRanks);
  for (std::size_t i = 0; i < shown; ++i) {
    if (i > 0) text += i + 1 == ranks.size() ? " and " : ", ";
    text += std::to_string(ranks[i]);
  }
  if (shown < ranks.size()) text += base::cat(" .. (", ranks.size(), " ranks)");
  return text;
}

std::string divergence_text(const Divergence& facts) {
  std::string text = base::cat("parameter '", facts.tensor, "' on ", ranks_text(facts.ranks),
                               facts.ranks.size() == 1 ? " is" : " are", " not bit-equal to the other ranks'");
  if (facts.differing > 1) text += base::cat(" (", facts.differing, " of ", facts.tensors, " tensors differ)");
  if (facts.equal_until > 0) text += base::cat("; all were equal at step ", facts.equal_until);
  text += "; ";
  if (!facts.stepped_locally.empty()) {
    return text + base::cat("likely because the optimizer of ", ranks_text(facts.stepped_locally),
                            " stepped on gradients that were not averaged (no_sync() around the backward before it)");
  }
  if (facts.equal_until == 0 && facts.step == 1) {
    return text +
           "the replicas started from different weights: broadcast rank 0's before the first step, as "
           "DistributedDataParallel does, and do not change them afterwards on some ranks only";
  }
  if (!facts.settings_difference.empty()) {
    return text + "likely because optimizer settings differ: " + facts.settings_difference;
  }
  if (facts.gradients_differ) return text + "likely because gradients are not averaged over all ranks";
  return text +
         "likely a program that changes weights on some ranks only, or differently: a random number of the rank's "
         "own, a gradient norm of the rank's own, a step that only some ranks skip; hosts of different "
         "processors also round differently";
}

}  // namespace sentinel
}  // namespace lockstep
