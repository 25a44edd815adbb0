// A coalesced operation is one backend operation for each run of buffers. A run of several is packed (packed.h).

#include "lockstep/core/comm/coalesce.h"

#include <memory>
#include <utility>

#include "lockstep/core/backend/packed.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/comm/communicator.h"

namespace lockstep {
std::vector<Range> coalesce(std::span<const std::size_t> nbytes) {
  std::vector<Range> runs;
  std::size_t packed = kPackedBytes;  // Of the last run; full, so that the first buffer begins one.
  for (std::size_t i = 0; i < nbytes.size(); ++i) {
    const bool alone = nbytes[i] >= kPackBelowBytes;
    if (!alone && packed + nbytes[i] <= kPackedBytes && !runs.empty()) {
      runs.back().end = i + 1;
      packed += nbytes[i];
    } else {
      runs.push_back({i, i + 1});
      packed = alone ? kPackedBytes : nbytes[i];
    }
  }
  return runs;
}

Work Communicator::coalesced(Collective collective, std::span<const BufferPair> buffers, const OpOptions& options) {
  const OpKind kind = collective.kind;
  std::vector<std::size_t> nbytes;
  for (const BufferPair& buffer : buffers) {
    nbytes.push_back(buffer.count * size_of(collective.dtype));
    LS_REQUIRE(
        buffer.count == 0 || (buffer.output != nullptr && (buffer.input != nullptr || kind == OpKind::kBroadcast)),
        who(), ": buffer ", nbytes.size() - 1, " of a coalesced ", name_of(kind), " is null and has ", buffer.count,
        " elements");
  }
  Work last;
  for (const Range& run : coalesce(nbytes)) {
    const BufferPair& first = buffers[run.begin];
    Collective part = collective;
    if (run.size() == 1) {
      part.count = first.count;
      part.input = first.input;
      part.output = first.output;
      last = run_async(std::move(part), options);
      continue;
    }
    part.packed = std::make_shared<Packed>(collective, buffers.subspan(run.begin, run.size()), *backend_);
    part.count = part.packed->count();
    part.input = part.packed->input();
    part.output = part.packed->output();
    last = run_async(std::move(part), options);
  }
  return last;
}

}  // namespace lockstep
