#include "lockstep/parallel/sentinel/record.h"

#include <algorithm>
#include <cstring>
#include <string>

#include <ATen/ATen.h>

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/group/process_group.h"

namespace lockstep::sentinel {

std::uint32_t take_samples(const at::Tensor& tensor, std::array<float, kGradientSamples>& samples) {
  const at::NoGradGuard no_grad;
  const at::Tensor flat = tensor.detach().flatten();
  const std::int64_t count = std::min<std::int64_t>(flat.numel(), kGradientSamples);
  if (count == 0) return 0;
  at::Tensor places = at::arange(count, at::kLong);
  places = places.mul_(2).add_(1).mul_(flat.numel()).floor_divide_(2 * count);
  const at::Tensor values = flat.index_select(0, places).to(at::kFloat).contiguous();
  std::copy_n(values.data_ptr<float>(), count, samples.begin());
  return static_cast<std::uint32_t>(count);
}

std::vector<Record> gather_records(ProcessGroup& group, const Record& mine, bool sketches) {
  const std::size_t nbytes = sketches ? sizeof(Record) : offsetof(Record, sketch);
  const auto world_size = static_cast<std::size_t>(group.world_size());
  std::vector<std::byte> all(nbytes * world_size);
  group.communicator().all_gather(&mine, all.data(), nbytes, DType::kUInt8, {.timeout = {}, .label = "sentinel"});
  std::vector<Record> records(world_size);
  for (std::size_t rank = 0; rank < world_size; ++rank) {
    std::memcpy(static_cast<void*>(&records[rank]), all.data() + rank * nbytes, nbytes);
  }
  return records;
}

std::vector<std::uint64_t> gather_checksums(ProcessGroup& group, const std::vector<std::uint64_t>& mine) {
  std::vector<std::uint64_t> all(mine.size() * static_cast<std::size_t>(group.world_size()));
  group.communicator().all_gather(mine.data(), all.data(), mine.size(), DType::kInt64,
                                  {.timeout = {}, .label = "sentinel: checksums of parameters"});
  return all;
}

std::string local_text(FindingKind kind, const std::string& tensor, LocalFinding finding, std::size_t tensors) {
  if (kind == FindingKind::kGradientsNotAveraged) {
    return base::cat("parameter '", tensor,
                     "' was stepped on after a backward whose gradients were not averaged; the last backward before "
                     "optimizer.step() must average: end no_sync() before it, and call backward through "
                     "DistributedDataParallel's forward");
  }
  if (kind == FindingKind::kGradientsReducedTwice) {
    return base::cat("the program reduces the gradient of '", tensor,
                     "', which is averaged over these ranks already: a second sum makes it world_size times as large; "
                     "leave the program's own reduction out");
  }
  if (kind == FindingKind::kParametersReduced) {
    return base::cat("the program reduces parameter '", tensor,
                     "' over these ranks, where the replicas are equal already: a sum makes weights world_size times "
                     "as large; average gradients, as DistributedDataParallel does, and leave parameters alone");
  }
  LS_CHECK(kind == FindingKind::kOptimizerParameters, "no rank finds '", name_of(kind), "' by itself");
  const bool all = static_cast<std::size_t>(finding.count) == tensors;
  return base::cat("the watched optimizers hold ", all ? "none of the " : "not all ", tensors,
                   " parameters that get gradients: '", tensor, "' is missing",
                   finding.count > 1 && !all ? base::cat(", ", finding.count, " in all") : "",
                   "; make the optimizer from the parameters of the very module that is trained, after it was built, "
                   "converted or replaced; freeze what is not to be trained; watch() every optimizer");
}

}  // namespace lockstep::sentinel
