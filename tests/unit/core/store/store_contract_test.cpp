// What every Store promises, run over every implementation.

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/core/io/file.h"
#include "lockstep/core/store/store.h"
#include "lockstep/core/store/tcp_store.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

Deadline generous() { return Deadline::after(std::chrono::seconds(60)); }

/// One set of contents that can be opened many times, as by many ranks.
class World {
 public:
  virtual ~World() = default;
  virtual std::shared_ptr<Store> open() = 0;
};

class MemoryWorld final : public World {
 public:
  std::shared_ptr<Store> open() override { return store_; }

 private:
  std::shared_ptr<Store> store_ = make_memory_store();
};

class FileWorld final : public World {
 public:
  std::shared_ptr<Store> open() override { return make_file_store(directory_.path() + "/store"); }

 private:
  io::TempDirectory directory_;
};

class TcpWorld final : public World {
 public:
  explicit TcpWorld(bool local) : local_(local) {}
  std::shared_ptr<Store> open() override {
    if (local_) return server_.local();
    return connect_tcp_store("127.0.0.1", server_.port(), "token", generous());
  }

 private:
  bool local_;
  TcpStoreServer server_{{.token = "token"}};
};

class PrefixWorld final : public World {
 public:
  explicit PrefixWorld(std::unique_ptr<World> below) : below_(std::move(below)) {}
  std::shared_ptr<Store> open() override { return make_prefix_store(below_->open(), "job/7"); }

 private:
  std::unique_ptr<World> below_;
};

struct Implementation {
  std::string name;
  std::function<std::unique_ptr<World>()> make;
  int adds = 1000;  ///< of each of eight threads
};

class StoreContract : public testing::TestWithParam<Implementation> {
 protected:
  std::unique_ptr<World> world_ = GetParam().make();
  std::shared_ptr<Store> store_ = world_->open();
};

TEST_P(StoreContract, SetThenGetFromAnotherHandle) {
  store_->set("key", "value");
  EXPECT_EQ(world_->open()->get("key", generous()), "value");
  store_->set("key", "other");
  EXPECT_EQ(world_->open()->get("key", generous()), "other");
  store_->wait("key", generous());
}

TEST_P(StoreContract, ValuesAreBytes) {
  const std::string bytes("\0\xff\n\r%/\0", 7);
  store_->set("bytes", bytes);
  EXPECT_EQ(store_->get("bytes", generous()), bytes);
  store_->set("empty", "");
  EXPECT_EQ(store_->get("empty", generous()), "");
  EXPECT_EQ(store_->try_get("empty"), "");
}

TEST_P(StoreContract, KeysAreBytesAndDistinct) {
  const std::vector<std::string> keys = {"a",
                                         "A",
                                         "a/b",
                                         "a%2Fb",
                                         ".",
                                         "..",
                                         "a+/b",
                                         "a+",
                                         " ",
                                         "ключ",
                                         "../up",
                                         std::string("nul\0nul", 7),
                                         ".lock",
                                         "/",
                                         "//",
                                         std::string(199, 'x'),
                                         std::string(200, 'x'),
                                         std::string(400, 'x'),
                                         std::string(1000, '/')};
  for (std::size_t i = 0; i < keys.size(); ++i) store_->set(keys[i], std::to_string(i));
  for (std::size_t i = 0; i < keys.size(); ++i)
    EXPECT_EQ(store_->get(keys[i], generous()), std::to_string(i)) << keys[i];
  for (const std::string& key : keys) EXPECT_TRUE(store_->erase(key)) << key;
  for (const std::string& key : keys) EXPECT_EQ(store_->try_get(key), std::nullopt) << key;
}

TEST_P(StoreContract, BadKeysAndValuesAreUsageErrors) {
  const std::string long_key(1025, 'k');
  for (const std::string& key : {std::string(), long_key}) {
    EXPECT_THROW(store_->set(key, "value"), UsageError);
    EXPECT_THROW(store_->get(key, generous()), UsageError);
    EXPECT_THROW(store_->try_get(key), UsageError);
    EXPECT_THROW(store_->add(key, 1), UsageError);
    EXPECT_THROW(store_->compare_and_set(key, std::nullopt, "value"), UsageError);
    EXPECT_THROW(store_->erase(key), UsageError);
  }
  EXPECT_THROW(store_->set("key", std::string((64 << 20) + 1, 'v')), UsageError);
  EXPECT_EQ(store_->try_get("key"), std::nullopt);
}

TEST_P(StoreContract, TryGetNeverWaits) {
  EXPECT_EQ(store_->try_get("missing"), std::nullopt);
  store_->set("there", "x");
  EXPECT_EQ(store_->try_get("there"), "x");
}

TEST_P(StoreContract, GetOfAMissingKeyEndsAtItsDeadlineAndNamesIt) {
  const auto start = Clock::now();
  try {
    store_->get("missing", Deadline::after(milliseconds(50)));
    FAIL();
  } catch (const TimeoutError& error) {
    EXPECT_GE(Clock::now() - start, milliseconds(50));
    EXPECT_THAT(error.what(), HasSubstr("missing' timed out after 0.05 s"));
  }
  EXPECT_EQ(store_->try_get("missing"), std::nullopt);  // the store goes on
}

TEST_P(StoreContract, GetWithADeadlineInThePastLooksOnce) {
  store_->set("there", "x");
  EXPECT_EQ(store_->get("there", Deadline::after(Duration::zero())), "x");
  EXPECT_THROW(store_->get("missing", Deadline::after(Duration::zero())), TimeoutError);
}

TEST_P(StoreContract, GetWaitsForEachWayAKeyCanAppear) {
  const std::vector<std::pair<std::string, std::function<void(Store&)>>> ways = {
      {"1", [](Store& store) { store.set("set", "1"); }},
      {"2", [](Store& store) { store.add("add", 2); }},
      {"3", [](Store& store) { store.compare_and_set("cas", std::nullopt, "3"); }},
  };
  const std::vector<std::string> keys = {"set", "add", "cas"};
  for (std::size_t i = 0; i < ways.size(); ++i) {
    std::vector<std::string> seen(3);
    std::vector<std::thread> waiters;
    for (std::string& value : seen) {
      waiters.emplace_back([&, handle = world_->open()] { value = handle->get(keys[i], generous()); });
    }
    ways[i].second(*store_);
    for (std::thread& waiter : waiters) waiter.join();
    EXPECT_THAT(seen, testing::Each(ways[i].first));
  }
}

TEST_P(StoreContract, ABlockedGetHoldsUpNoOtherThread) {
  std::string seen;
  std::atomic<bool> started{false};
  std::thread waiter([&] {
    started = true;
    seen = store_->get("late", generous());
  });
  while (!started) std::this_thread::yield();
  for (int i = 1; i <= 20; ++i) EXPECT_EQ(store_->add("counter", 1), i);
  store_->set("late", "now");
  waiter.join();
  EXPECT_EQ(seen, "now");
}

TEST_P(StoreContract, AddCountsInDecimal) {
  EXPECT_EQ(store_->add("n", 5), 5);
  EXPECT_EQ(store_->add("n", -7), -2);
  EXPECT_EQ(store_->add("n", 0), -2);
  EXPECT_EQ(store_->get("n", generous()), "-2");
  store_->set("n", "40");
  EXPECT_EQ(store_->add("n", 2), 42);
  EXPECT_EQ(store_->add("min", INT64_MIN), INT64_MIN);
}

TEST_P(StoreContract, AddToNoIntegerIsAUsageErrorAndChangesNothing) {
  for (const std::string value : {"x", "", "1x", "1.5", "9223372036854775808"}) {
    store_->set("n", value);
    EXPECT_THROW(store_->add("n", 1), UsageError) << value;
    EXPECT_EQ(store_->get("n", generous()), value);
  }
  store_->set("n", std::to_string(INT64_MAX));
  EXPECT_THROW(store_->add("n", 1), UsageError);
  EXPECT_EQ(store_->get("n", generous()), std::to_string(INT64_MAX));
}

TEST_P(StoreContract, CompareAndSetSetsOnlyWhatItExpected) {
  EXPECT_EQ(store_->compare_and_set("key", "old", "new"), "");
  EXPECT_EQ(store_->try_get("key"), std::nullopt);
  EXPECT_EQ(store_->compare_and_set("key", std::nullopt, "first"), "first");
  EXPECT_EQ(store_->compare_and_set("key", std::nullopt, "second"), "first");
  EXPECT_EQ(store_->compare_and_set("key", "second", "third"), "first");
  EXPECT_EQ(store_->compare_and_set("key", "first", "third"), "third");
  EXPECT_EQ(store_->get("key", generous()), "third");
  // An empty value that is there is not a missing key.
  store_->set("key", "");
  EXPECT_EQ(store_->compare_and_set("key", std::nullopt, "x"), "");
  EXPECT_EQ(store_->get("key", generous()), "");
  EXPECT_EQ(store_->compare_and_set("key", "", "x"), "x");
}

TEST_P(StoreContract, EraseTellsWhetherAKeyWasThere) {
  EXPECT_FALSE(store_->erase("key"));
  store_->set("key", "value");
  EXPECT_TRUE(store_->erase("key"));
  EXPECT_FALSE(store_->erase("key"));
  EXPECT_THROW(store_->get("key", Deadline::after(milliseconds(5))), TimeoutError);
}

TEST_P(StoreContract, ThreadsThatAddLoseNothing) {
  constexpr int kThreads = 8;
  const int times = GetParam().adds;
  std::vector<std::thread> threads;
  std::atomic<std::int64_t> largest{0};
  for (int i = 0; i < kThreads; ++i) {
    // Half of them share a handle, half have their own.
    threads.emplace_back([&, handle = i % 2 == 0 ? store_ : world_->open()] {
      std::int64_t last = 0;
      for (int n = 0; n < times; ++n) {
        const std::int64_t sum = handle->add("counter", 1);
        EXPECT_GT(sum, last);
        last = sum;
      }
      for (std::int64_t seen = largest; last > seen && !largest.compare_exchange_weak(seen, last);) continue;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(store_->get("counter", generous()), std::to_string(kThreads * times));
  EXPECT_EQ(largest, kThreads * times);
}

TEST_P(StoreContract, CompareAndSetElectsExactlyOne) {
  for (int round = 0; round < 20; ++round) {
    const std::string key = "leader/" + std::to_string(round);
    std::vector<std::string> answers(8);
    std::vector<std::thread> threads;
    std::atomic<int> elected{0};
    for (std::size_t i = 0; i < answers.size(); ++i) {
      threads.emplace_back([&, i, handle = i % 2 == 0 ? store_ : world_->open()] {
        const std::string me = std::to_string(i);
        answers[i] = handle->compare_and_set(key, std::nullopt, me);
        if (answers[i] == me) ++elected;
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(elected, 1);
    EXPECT_THAT(answers, testing::Each(store_->get(key, generous())));
  }
}

TEST_P(StoreContract, ABigValueComesBack) {
  std::string value((5 << 20) + 3, '\0');
  for (std::size_t i = 0; i < value.size(); i += 997) value[i] = static_cast<char>(i);
  store_->set("big", value);
  EXPECT_EQ(store_->get("big", generous()) == value, true);
}

std::unique_ptr<World> prefixed(std::unique_ptr<World> below) {
  return std::make_unique<PrefixWorld>(std::move(below));
}

INSTANTIATE_TEST_SUITE_P(
    Stores, StoreContract,
    testing::Values(Implementation{"memory", [] { return std::make_unique<MemoryWorld>(); }},
                    Implementation{"file", [] { return std::make_unique<FileWorld>(); }, 200},
                    Implementation{"tcp_local", [] { return std::make_unique<TcpWorld>(true); }},
                    Implementation{"tcp_client", [] { return std::make_unique<TcpWorld>(false); }},
                    Implementation{"prefix_of_memory", [] { return prefixed(std::make_unique<MemoryWorld>()); }},
                    Implementation{"prefix_of_tcp_client", [] { return prefixed(std::make_unique<TcpWorld>(false)); }}),
    [](const auto& param_info) { return param_info.param.name; });

TEST(PrefixStore, ViewsDoNotSeeEachOther) {
  const auto below = make_memory_store();
  const auto a = make_prefix_store(below, "a");
  const auto b = make_prefix_store(below, "b");
  a->set("key", "1");
  b->set("key", "2");
  EXPECT_EQ(a->get("key", generous()), "1");
  EXPECT_EQ(b->get("key", generous()), "2");
  EXPECT_EQ(below->get("a/key", generous()), "1");
  EXPECT_TRUE(a->erase("key"));
  EXPECT_EQ(b->get("key", generous()), "2");
}

TEST(PrefixStore, RejectsNoStoreAndNoPrefix) {
  EXPECT_THROW(make_prefix_store(nullptr, "a"), UsageError);
  EXPECT_THROW(make_prefix_store(make_memory_store(), ""), UsageError);
}

}  // namespace
}  // namespace lockstep
