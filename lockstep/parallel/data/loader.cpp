#include "lockstep/parallel/data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "lockstep/core/base/check.h"

namespace lockstep::data {

// One producer, one consumer, a queue of at most `prefetch` slots. The thread works on one batch only after it has seen
// a free slot, so that `prefetch` bounds the batches that exist beside the consumer's. After an error it ends.
class Loader::Impl {
 public:
  Impl(const Dataset& dataset, const DistributedSampler& sampler, LoaderOptions options)
      : dataset_(dataset), indices_(sampler.indices()), options_(options) {
    LS_REQUIRE(options.batch_size >= 1, "Loader: batch_size is 0; it must be at least 1");
    batches_ = indices_.size() / options.batch_size + (indices_.size() % options.batch_size != 0 ? 1 : 0);
  }

  ~Impl() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void start() {
    LS_REQUIRE(!std::exchange(started_, true), "Loader: begin() was called before; make one loader per epoch");
    if (options_.prefetch == 0 || batches_ == 0) return;
    try {
      thread_ = std::thread([this] { produce(); });
    } catch (const std::system_error& error) {
      throw SystemError("Loader: cannot start the prefetch thread (prefetch = 0 needs none)", error.code().value());
    }
  }

  /// The next batch, owned here until the next call; null after the last.
  Batch* next() {
    if (taken_ == batches_) return nullptr;
    current_ = {};  // its memory is free for the next one
    const std::size_t number = taken_;
    taken_ = batches_;  // where the rest throws, the iteration is over
    current_ = thread_.joinable() ? pop() : make(number);
    taken_ = number + 1;
    return &current_;
  }

  std::size_t batches() const noexcept { return batches_; }

 private:
  struct Slot {
    Batch batch;
    std::exception_ptr error;
  };

  Batch make(std::size_t number) const {
    const std::size_t begin = number * options_.batch_size;
    const std::size_t end = begin + std::min(options_.batch_size, indices_.size() - begin);
    return dataset_.get_batch(
        {indices_.begin() + static_cast<std::ptrdiff_t>(begin), indices_.begin() + static_cast<std::ptrdiff_t>(end)});
  }

  Batch pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !ready_.empty(); });
    Slot slot = std::move(ready_.front());
    ready_.pop_front();
    lock.unlock();
    changed_.notify_all();
    if (slot.error) std::rethrow_exception(slot.error);
    return std::move(slot.batch);
  }

  void produce() noexcept {
    for (std::size_t number = 0; number < batches_; ++number) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return stop_ || ready_.size() < options_.prefetch; });
        if (stop_) return;
      }
      Slot slot;
      try {
        slot.batch = make(number);
      } catch (...) {
        slot.error = std::current_exception();
      }
      const bool failed = slot.error != nullptr;
      {
        const std::lock_guard lock(mutex_);
        ready_.push_back(std::move(slot));
      }
      changed_.notify_all();
      if (failed) return;
    }
  }

  const Dataset& dataset_;
  const std::vector<std::int64_t> indices_;
  const LoaderOptions options_;
  std::size_t batches_ = 0;

  // Consumer's.
  bool started_ = false;
  std::size_t taken_ = 0;
  Batch current_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Slot> ready_;  // guarded by mutex_
  bool stop_ = false;       // guarded by mutex_
  std::thread thread_;
};

Loader::Loader(const Dataset& dataset, const DistributedSampler& sampler, LoaderOptions options)
    : impl_(std::make_unique<Impl>(dataset, sampler, options)) {}
Loader::~Loader() = default;
Loader::Loader(Loader&&) noexcept = default;
Loader& Loader::operator=(Loader&&) noexcept = default;

Loader::Iterator Loader::begin() {
  impl_->start();
  return Iterator(impl_.get());
}

std::size_t Loader::size() const noexcept { return impl_->batches(); }

Loader::Iterator::Iterator(Impl* loader) : loader_(loader), batch_(loader->next()) {}

Loader::Iterator& Loader::Iterator::operator++() {
  batch_ = nullptr;  // holds where next() throws
  batch_ = loader_->next();
  return *this;
}

}  // namespace lockstep::data
