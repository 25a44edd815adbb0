#include "lockstep/parallel/data/loader.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <iterator>
#include <limits>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"

namespace lockstep::data {
namespace {

static_assert(std::input_iterator<Loader::Iterator>);
static_assert(std::sentinel_for<std::default_sentinel_t, Loader::Iterator>);

// Sample i is the number i. Counts its calls, notes their threads, fails at one call if told to.
class Numbers final : public Dataset {
 public:
  explicit Numbers(std::size_t count, int fails_at = -1) : count_(count), fails_at_(fails_at) {}
  std::size_t size() const override { return count_; }
  std::vector<std::int64_t> sample_shape() const override { return {1}; }
  std::int64_t num_classes() const override { return 1; }
  Batch get_batch(const std::vector<std::int64_t>& indices) const override {
    const std::lock_guard lock(mutex_);
    threads_.insert(std::this_thread::get_id());
    const int call = calls_++;
    changed_.notify_all();
    if (call == fails_at_) throw std::out_of_range("call " + std::to_string(call));
    const auto n = static_cast<std::int64_t>(indices.size());
    Batch batch{at::empty({n}, at::dtype(at::kLong)), at::empty({n}, at::dtype(at::kLong))};
    std::copy(indices.begin(), indices.end(), batch.data.data_ptr<std::int64_t>());
    return batch;
  }

  int calls() const {
    const std::lock_guard lock(mutex_);
    return calls_;
  }
  bool wait_for_calls(int calls) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(30), [&] { return calls_ >= calls; });
  }
  std::set<std::thread::id> threads() const {
    const std::lock_guard lock(mutex_);
    return threads_;
  }

 private:
  const std::size_t count_;
  const int fails_at_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable int calls_ = 0;
  mutable std::set<std::thread::id> threads_;
};

std::vector<std::int64_t> values(const Batch& batch) {
  const auto* data = batch.data.data_ptr<std::int64_t>();
  return {data, data + batch.data.numel()};
}

TEST(Loader, GivesTheSamplersOrderInBatchesWhateverIsPrefetched) {
  for (const std::size_t samples : {1, 2, 31, 32, 33, 101}) {
    const Numbers dataset(samples);
    const DistributedSampler sampler(samples, 1, 3, {.seed = 5});
    for (const std::size_t batch_size : {1, 3, 8, 1000}) {
      for (const std::size_t prefetch : {0, 1, 2, 7, 1000}) {
        SCOPED_TRACE(testing::Message() << samples << " samples, batches of " << batch_size << ", " << prefetch);
        std::vector<std::int64_t> all;
        std::vector<std::size_t> sizes;
        auto batches = loader(dataset, sampler, {.batch_size = batch_size, .prefetch = prefetch});
        for (auto& batch : batches) {
          const auto numbers = values(batch);
          all.insert(all.end(), numbers.begin(), numbers.end());
          sizes.push_back(numbers.size());
        }
        ASSERT_EQ(all, sampler.indices());
        ASSERT_EQ(sizes.size(), batches.size());
        for (std::size_t i = 0; i + 1 < sizes.size(); ++i) ASSERT_EQ(sizes[i], batch_size);
        ASSERT_TRUE(sizes.back() >= 1 && sizes.back() <= batch_size);
      }
    }
  }
}

TEST(Loader, AnEmptyShareHasNoBatches) {
  const Numbers dataset(2);
  for (const std::size_t prefetch : {0, 2}) {
    auto batches = loader(dataset, DistributedSampler(2, 0, 3, {.drop_last = true}), {.prefetch = prefetch});
    EXPECT_EQ(batches.size(), 0U);
    EXPECT_TRUE(batches.begin() == batches.end());
  }
  EXPECT_EQ(dataset.calls(), 0);
}

TEST(Loader, TheOrderIsTakenWhenItIsMade) {
  const Numbers dataset(20);
  DistributedSampler sampler(20, 0, 1);
  const auto order = sampler.indices();
  auto batches = loader(dataset, sampler, {.batch_size = 20});
  sampler.set_epoch(1);
  EXPECT_EQ(values(*batches.begin()), order);
}

TEST(Loader, WithoutPrefetchThereIsNoThreadAndNothingAhead) {
  const Numbers dataset(10);
  auto batches = loader(dataset, DistributedSampler(10, 0, 1), {.batch_size = 2, .prefetch = 0});
  EXPECT_EQ(dataset.calls(), 0);
  int taken = 0;
  for (auto batch = batches.begin(); batch != batches.end(); ++batch) EXPECT_EQ(dataset.calls(), ++taken);
  EXPECT_EQ(dataset.threads(), std::set{std::this_thread::get_id()});
}

TEST(Loader, PrefetchIsDoneByOneOtherThreadAndBounded) {
  const Numbers dataset(40);
  auto batches = loader(dataset, DistributedSampler(40, 0, 1), {.batch_size = 2, .prefetch = 3});
  int taken = 0;
  for (auto batch = batches.begin(); batch != batches.end(); ++batch) {
    ++taken;
    ASSERT_TRUE(dataset.wait_for_calls(std::min(20, taken + 3))) << "it works ahead of the consumer";
    ASSERT_LE(dataset.calls(), taken + 3);
  }
  EXPECT_EQ(taken, 20);
  ASSERT_EQ(dataset.threads().size(), 1U);
  EXPECT_NE(*dataset.threads().begin(), std::this_thread::get_id());
}

TEST(Loader, LeavingEarlyEndsTheThread) {
  const Numbers dataset(100000);
  for (int taken = 0; taken < 5; ++taken) {
    auto batches = loader(dataset, DistributedSampler(100000, 0, 1), {.batch_size = 1});
    int left = taken;
    for (auto& batch : batches) {
      if (left-- == 0) break;
      EXPECT_EQ(batch.data.numel(), 1);
    }
  }
  EXPECT_LE(dataset.calls(), 5 * (5 + 2)) << "prefetch bounds what is thrown away";
}

TEST(Loader, NeverBegunIsFine) {
  const Numbers dataset(10);
  { const auto batches = loader(dataset, DistributedSampler(10, 0, 1)); }
  EXPECT_EQ(dataset.calls(), 0);
}

TEST(Loader, AnExceptionComesWhereItsBatchWouldHaveAndEndsTheLoop) {
  for (const std::size_t prefetch : {0, 1, 2, 50}) {
    for (const int fails_at : {0, 1, 4, 9}) {
      SCOPED_TRACE(testing::Message() << "prefetch " << prefetch << ", batch " << fails_at);
      const Numbers dataset(10, fails_at);
      auto batches = loader(dataset, DistributedSampler(10, 0, 1), {.batch_size = 1, .prefetch = prefetch});
      int taken = 0;
      try {
        for ([[maybe_unused]] auto& batch : batches) ++taken;
        FAIL() << "no exception";
      } catch (const std::out_of_range& error) {
        EXPECT_EQ(error.what(), "call " + std::to_string(fails_at)) << "the type and the text of the dataset's own";
      }
      EXPECT_EQ(taken, fails_at);
    }
  }
}

TEST(Loader, AfterAnExceptionTheIteratorIsAtTheEnd) {
  for (const std::size_t prefetch : {0, 2}) {
    const Numbers dataset(10, 1);
    auto batches = loader(dataset, DistributedSampler(10, 0, 1), {.batch_size = 1, .prefetch = prefetch});
    auto batch = batches.begin();
    EXPECT_THROW(++batch, std::out_of_range);
    EXPECT_TRUE(batch == batches.end());
    EXPECT_TRUE(++batch == batches.end());
  }
}

TEST(Loader, MovesWithItsThread) {
  const Numbers dataset(10);
  const DistributedSampler sampler(10, 0, 1);
  auto first = loader(dataset, sampler, {.batch_size = 3});
  auto batch = first.begin();
  auto all = values(*batch);
  Loader second = std::move(first);
  for (++batch; batch != second.end(); ++batch) {
    const auto numbers = values(*batch);
    all.insert(all.end(), numbers.begin(), numbers.end());
  }
  EXPECT_EQ(all, sampler.indices());
  second = loader(dataset, sampler);
  EXPECT_EQ(second.size(), 1U);
}

TEST(Loader, ABatchMayBeKept) {
  const Numbers dataset(6);
  std::vector<Batch> kept;
  for (auto& batch : loader(dataset, DistributedSampler(6, 0, 1, {.shuffle = false}), {.batch_size = 2})) {
    kept.push_back(batch);
  }
  ASSERT_EQ(kept.size(), 3U);
  for (std::int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(values(kept[static_cast<std::size_t>(i)]), (std::vector<std::int64_t>{2 * i, 2 * i + 1}));
  }
}

TEST(Loader, RejectsBadUse) {
  const Numbers dataset(6);
  const DistributedSampler sampler(6, 0, 1);
  EXPECT_THROW(loader(dataset, sampler, {.batch_size = 0}), UsageError);
  auto batches = loader(dataset, sampler);
  batches.begin();
  EXPECT_THROW(batches.begin(), UsageError);
  auto huge = loader(dataset, sampler, {.batch_size = std::numeric_limits<std::size_t>::max()});
  EXPECT_EQ(huge.size(), 1U);
  EXPECT_EQ(huge.begin()->data.numel(), 6);
}

}  // namespace
}  // namespace lockstep::data
