#pragma once

#include <cstddef>
#include <iterator>
#include <memory>

#include "lockstep/parallel/data/dataset.h"
#include "lockstep/parallel/data/distributed_sampler.h"

namespace lockstep::data {

struct LoaderOptions {
  std::size_t batch_size = 32;  ///< samples of this rank per batch; the last batch may be smaller
  std::size_t prefetch = 2;     ///< batches prepared ahead by one thread; 0: prepared when asked for, no thread
};

/// One epoch of batches, as a single-pass range:  for (auto& batch : loader(data, sampler, {.batch_size = 32})) ...
/// The sampler's order is taken when the loader is made; `dataset` must outlive the loader. The thread starts with
/// begin(); the batches and their order are the same for every `prefetch`.
/// An exception of the prefetch thread is rethrown by the iterator where its batch would have come; the iterator then
/// equals end(). Leaving the loop early is fine: the thread ends after the batch it works on, and is joined.
/// Waits as long as Dataset::get_batch takes and no longer.
/// Thread safety: one thread.
class Loader {
  class Impl;

 public:
  /// UsageError for a batch size of 0.
  Loader(const Dataset& dataset, const DistributedSampler& sampler, LoaderOptions options);
  ~Loader();
  Loader(Loader&&) noexcept;
  Loader& operator=(Loader&&) noexcept;

  /// Valid while its loader (or the one that it was moved to) lives. A batch stays until the next ++; copy its tensors
  /// to keep them.
  class Iterator {
   public:
    using value_type = Batch;
    using difference_type = std::ptrdiff_t;
    using iterator_category = std::input_iterator_tag;
    Batch& operator*() const noexcept { return *batch_; }
    Batch* operator->() const noexcept { return batch_; }
    Iterator& operator++();
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const noexcept { return batch_ == nullptr; }

   private:
    friend class Loader;
    explicit Iterator(Impl* loader);
    Impl* loader_;
    Batch* batch_ = nullptr;
  };

  /// Single pass: UsageError at the second call.
  Iterator begin();
  std::default_sentinel_t end() const noexcept { return {}; }
  /// Number of batches of this rank.
  std::size_t size() const noexcept;

 private:
  std::unique_ptr<Impl> impl_;
};

/// See Loader.
inline Loader loader(const Dataset& dataset, const DistributedSampler& sampler, LoaderOptions options = {}) {
  return Loader(dataset, sampler, options);
}

}  // namespace lockstep::data
