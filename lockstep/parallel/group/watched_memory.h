#pragma once
// Internal: never included from a public header.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "lockstep/parallel/group/arguments.h"

namespace lockstep::group {

struct WatchedRange {
  const void* begin = nullptr;
  std::size_t nbytes = 0;
};
/// A tensor's memory; empty unless it is dense and on the CPU.
WatchedRange watched_range(const at::Tensor& tensor);

/// A reduction of watched memory that the program is about to make through a ProcessGroup.
struct WatchedReduction {
  /// Of the first range that the tensor touches, in the list that the watch was made with; the number of ranges where
  /// it touches none and is large.
  std::size_t index = 0;
  const Call& call;
  Reduction reduction;
};

/// While it lives, `watcher` is called before all_reduce and reduce of a ProcessGroup write to one of the ranges, or to
/// a tensor of at least `large` elements (0: no such), by the thread that reduces; what it throws comes out of the
/// reduction, before any byte moves. The Communicator below
/// is not watched: that is the door for whoever owns the memory.
///
/// Threads: any; the process has one list of watches. Empty ranges and ranges that overlap are allowed.
/// Lifetime: a call of `watcher` may still run in another thread while the destructor returns.
/// Cost: one relaxed load per reduction while there is no watch, else a lock and a pass over the ranges.
class MemoryWatch {
 public:
  using Watcher = std::function<void(const WatchedReduction&)>;

  MemoryWatch(const std::vector<WatchedRange>& ranges, Watcher watcher, std::int64_t large = 0);
  ~MemoryWatch();
  MemoryWatch(const MemoryWatch&) = delete;
  MemoryWatch& operator=(const MemoryWatch&) = delete;

  struct Entry;

 private:
  std::shared_ptr<const Entry> entry_;
};

extern std::atomic<int> watch_count;
void tell_watches(const Call& call, const at::Tensor& tensor, Reduction reduction);

/// For ProcessGroup: before it reduces a dense tensor that the program gave it.
inline void announce_reduction(const Call& call, const at::Tensor& tensor, Reduction reduction) {
  if (watch_count.load(std::memory_order_relaxed) > 0) tell_watches(call, tensor, reduction);
}
inline void announce_reduction(const Call& call, const TensorList& tensors, Reduction reduction) {
  for (const at::Tensor& tensor : tensors) announce_reduction(call, tensor, reduction);
}

}  // namespace lockstep::group
