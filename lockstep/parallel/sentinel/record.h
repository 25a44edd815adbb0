#pragma once
// Internal: never included from a public header.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include <ATen/core/Tensor.h>

#include "lockstep/parallel/sentinel/diagnosis.h"
#include "lockstep/parallel/sentinel/sample_sketch.h"
#include "lockstep/parallel/sentinel/sentinel.h"

namespace lockstep::sentinel {

/// A mistake that a rank found by itself.
struct LocalFinding {
  static constexpr std::int32_t kNone = -1;

  std::int32_t tensor = kNone;  ///< index of the parameter that it is about
  std::int32_t count = 0;       ///< of parameters that it is about
  bool found() const noexcept { return tensor != kNone; }
};

/// What a rank tells the others in an exchange: plain bytes of a fixed size.
struct Record {
  std::uint64_t parameters = 0;  ///< checksum; 0 where it was not due
  std::uint64_t settings = 0;    ///< checksum of the optimizers' description; 0: none is watched, or it was not due
  std::array<LocalFinding, kFindingKinds> found{};
  GradientSample gradients;
  SketchRecord sketch;  ///< last: left out once samples need no comparison any more
};
static_assert(std::is_trivially_copyable_v<Record> && std::is_standard_layout_v<Record>);

/// Copies up to 64 elements, spread evenly over `tensor`; returns how many. The places depend on its size alone.
std::uint32_t take_samples(const at::Tensor& tensor, std::array<float, kGradientSamples>& samples);

/// Collective: everyone's record, in rank order; `sketches` is alike on all ranks.
std::vector<Record> gather_records(ProcessGroup& group, const Record& mine, bool sketches);

/// Collective: everyone's checksums of `mine.size()` tensors, rank after rank.
std::vector<std::uint64_t> gather_checksums(ProcessGroup& group, const std::vector<std::uint64_t>& mine);

/// Line about a mistake that a rank finds by itself; `tensor` is the name of its parameter, `tensors` how many
/// parameters there are.
std::string local_text(FindingKind kind, const std::string& tensor, LocalFinding finding, std::size_t tensors);

}  // namespace lockstep::sentinel
