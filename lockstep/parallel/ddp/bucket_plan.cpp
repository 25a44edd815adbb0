#include "lockstep/parallel/ddp/bucket_plan.h"

#include <algorithm>
#include <array>
#include <utility>

#include "lockstep/core/base/check.h"

namespace lockstep::ddp {
namespace {

/// A bucket that is being filled.
struct OpenBucket {
  BucketSpec spec;
  std::size_t bytes = 0;          // of the parameters alone: what the cap is about
  std::size_t last_position = 0;  // in the order, of the parameter that completes it
};

void append(OpenBucket& bucket, std::size_t index, std::size_t position, const ParameterSize& parameter) {
  const std::size_t element = size_of(parameter.dtype);
  const auto line = static_cast<std::int64_t>(kSlotAlignment / element);
  bucket.spec.dtype = parameter.dtype;
  bucket.spec.parameters.push_back(index);
  bucket.spec.offsets.push_back(bucket.spec.numel);
  // An empty parameter takes a line too, so that no bucket is empty.
  bucket.spec.numel += std::max<std::int64_t>((parameter.numel + line - 1) / line, 1) * line;
  bucket.bytes += static_cast<std::size_t>(parameter.numel) * element;
  bucket.last_position = position;
}

}  // namespace

std::size_t default_bucket_cap(std::string_view backend) {
  constexpr std::size_t kMiB = 1u << 20;
  return backend == "shm" || backend == "self" ? 4 * kMiB : 25 * kMiB;
}

std::vector<BucketSpec> plan_buckets(std::span<const ParameterSize> parameters, std::span<const std::size_t> order,
                                     BucketCaps caps) {
  LS_CHECK(order.size() == parameters.size(), "an order of ", order.size(), " for ", parameters.size(), " parameters");
  std::array<OpenBucket, kDTypeCount> open;
  std::array<std::size_t, kDTypeCount> cap;
  cap.fill(caps.first_bytes);
  std::vector<OpenBucket> closed;
  for (std::size_t position = 0; position < order.size(); ++position) {
    const ParameterSize& parameter = parameters[order[position]];
    const auto key = static_cast<std::size_t>(parameter.dtype);
    append(open[key], order[position], position, parameter);
    if (open[key].bytes >= cap[key]) {
      closed.push_back(std::exchange(open[key], {}));
      cap[key] = caps.bytes;
    }
  }
  for (OpenBucket& bucket : open) {
    if (!bucket.spec.parameters.empty()) closed.push_back(std::move(bucket));
  }
  std::ranges::sort(closed, {}, &OpenBucket::last_position);
  std::vector<BucketSpec> plan;
  plan.reserve(closed.size());
  for (OpenBucket& bucket : closed) plan.push_back(std::move(bucket.spec));
  return plan;
}

}  // namespace lockstep::ddp
