#include "lockstep/parallel/group/watched_memory.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <mutex>
#include <utility>

namespace lockstep::group {

struct MemoryWatch::Entry {
  struct Range {
    std::uintptr_t begin;
    std::uintptr_t end;
    std::size_t index;
  };
  std::vector<Range> ranges;  // By begin.
  std::size_t given = 0;      // Ranges, the empty ones too.
  std::int64_t large = 0;
  Watcher watcher;
};

namespace {

using EntryPointer = std::shared_ptr<const MemoryWatch::Entry>;

struct Registry {
  std::mutex mutex;
  std::vector<EntryPointer> entries;
};

// Never destroyed: a watch may end in a thread that outlives main.
Registry& registry() {
  static auto* const instance = new Registry;
  return *instance;
}

/// The lowest index of a range that has a byte in [begin, end); -1 without one.
std::ptrdiff_t find(const MemoryWatch::Entry& entry, std::uintptr_t begin, std::uintptr_t end) {
  std::ptrdiff_t found = -1;
  const auto last = std::ranges::lower_bound(entry.ranges, end, {}, &MemoryWatch::Entry::Range::begin);
  for (auto range = entry.ranges.begin(); range != last; ++range) {
    const auto index = static_cast<std::ptrdiff_t>(range->index);
    if (range->end > begin && (found < 0 || index < found)) found = index;
  }
  return found;
}

}  // namespace

WatchedRange watched_range(const at::Tensor& tensor) {
  const bool dense = tensor.defined() && tensor.layout() == at::kStrided && tensor.device().is_cpu();
  return dense ? WatchedRange{tensor.data_ptr(), tensor.nbytes()} : WatchedRange{};
}

std::atomic<int> watch_count{0};

MemoryWatch::MemoryWatch(const std::vector<WatchedRange>& ranges, Watcher watcher, std::int64_t large) {
  auto entry = std::make_shared<Entry>();
  entry->given = ranges.size();
  entry->large = large;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const auto begin = reinterpret_cast<std::uintptr_t>(ranges[i].begin);
    if (ranges[i].nbytes > 0) entry->ranges.push_back({begin, begin + ranges[i].nbytes, i});
  }
  std::ranges::sort(entry->ranges, {}, &Entry::Range::begin);
  entry->watcher = std::move(watcher);
  entry_ = std::move(entry);
  const std::lock_guard lock(registry().mutex);
  registry().entries.push_back(entry_);
  watch_count.fetch_add(1, std::memory_order_relaxed);
}

MemoryWatch::~MemoryWatch() {
  const std::lock_guard lock(registry().mutex);
  std::erase(registry().entries, entry_);
  watch_count.fetch_sub(1, std::memory_order_relaxed);
}

void tell_watches(const Call& call, const at::Tensor& tensor, Reduction reduction) {
  if (tensor.numel() == 0) return;
  const auto begin = reinterpret_cast<std::uintptr_t>(tensor.data_ptr());
  const std::uintptr_t end = begin + tensor.nbytes();
  std::vector<std::pair<EntryPointer, std::size_t>> hits;
  {
    const std::lock_guard lock(registry().mutex);
    for (const EntryPointer& entry : registry().entries) {
      const std::ptrdiff_t index = find(*entry, begin, end);
      if (index >= 0) {
        hits.emplace_back(entry, static_cast<std::size_t>(index));
      } else if (entry->large > 0 && tensor.numel() >= entry->large) {
        hits.emplace_back(entry, entry->given);
      }
    }
  }
  // Outside of the lock: a watcher may throw, or end its own watch.
  for (const auto& [entry, index] : hits) entry->watcher({index, call, reduction});
}

}  // namespace lockstep::group
