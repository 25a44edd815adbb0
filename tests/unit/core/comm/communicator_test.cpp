// What a communicator does when something is wrong: mismatches, deadlines, aborts, and what is left to say afterwards.

#include "lockstep/core/comm/communicator.h"

#include <array>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "lockstep/core/backend/self/self_backend.h"
#include "lockstep/core/comm/init.h"
#include "lockstep/core/io/file.h"
#include "lockstep/core/store/store.h"
#include "tests/support/ranks.h"

namespace lockstep {
namespace {

using support::run_ranks;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::shared_ptr<Communicator> join(const std::shared_ptr<Store>& store, int rank, int world,
                                   Duration timeout = std::chrono::seconds(30), const std::string& name = "world") {
  InitOptions options;
  options.timeout = timeout;
  options.init_timeout = std::chrono::seconds(30);
  options.name = name;
  return make_communicator(store, rank, world, options);
}

/// Runs `body` and returns the text of the `E` that it must throw.
template <typename E, typename Body>
std::string text_of(Body body) {
  try {
    body();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another error: " << error.what();
    return {};
  }
  ADD_FAILURE() << "no error";
  return {};
}

TEST(Communicator, RejectsBadCallsBeforeAnyByteMoves) {
  const auto communicator = join(make_memory_store(), 0, 1);
  float x = 1;
  EXPECT_THAT(text_of<UsageError>([&] { communicator->all_reduce(&x, &x, 1, DType::kFloat32, ReduceOp::kBitAnd); }),
              HasSubstr("all_reduce with band is not defined for f32"));
  EXPECT_THAT(text_of<UsageError>([&] { communicator->broadcast(&x, 1, DType::kFloat32, 1); }),
              HasSubstr("root 1 is not a rank of a group of 1"));
  EXPECT_THAT(text_of<UsageError>([&] { communicator->all_reduce(nullptr, &x, 1, DType::kFloat32); }),
              HasSubstr("null buffer"));
  communicator->all_reduce(&x, &x, 1, DType::kFloat32);  // Still usable.
  EXPECT_EQ(x, 1);
}

TEST(Communicator, MismatchNamesBothSidesOnEveryRank) {
  struct Case {
    const char* what;
    void (*call)(Communicator&, int rank, float* data);
    const char* one;
    const char* other;
  };
  const std::array<Case, 5> cases = {{
      {"operation",
       [](Communicator& c, int rank, float* data) {
         rank == 1 ? c.barrier() : c.all_reduce(data, data, 100, DType::kFloat32);
       },
       "all_reduce #1 (100 f32, sum)", "barrier #1"},
      {"count",
       [](Communicator& c, int rank, float* data) { c.all_reduce(data, data, rank == 1 ? 99 : 100, DType::kFloat32); },
       "(100 f32, sum)", "(99 f32, sum)"},
      {"dtype",
       [](Communicator& c, int rank, float* data) {
         c.all_reduce(data, data, 100, rank == 1 ? DType::kInt32 : DType::kFloat32);
       },
       "(100 f32, sum)", "(100 i32, sum)"},
      {"reduction",
       [](Communicator& c, int rank, float* data) {
         c.all_reduce(data, data, 100, DType::kFloat32, rank == 1 ? ReduceOp::kMax : ReduceOp::kSum);
       },
       "(100 f32, sum)", "(100 f32, max)"},
      {"root",
       [](Communicator& c, int rank, float* data) { c.broadcast(data, 100, DType::kFloat32, rank == 1 ? 1 : 0); },
       "root 0", "root 1"},
  }};
  for (const Case& test : cases) {
    const auto store = make_memory_store();
    run_ranks(3, [&](int rank) {
      const auto communicator = join(store, rank, 3);
      std::vector<float> data(100);
      const std::string text = text_of<MismatchError>([&] { test.call(*communicator, rank, data.data()); });
      EXPECT_THAT(text, AllOf(HasSubstr(test.one), HasSubstr(test.other), HasSubstr("rank 1"))) << test.what;
      EXPECT_THAT(text_of<AbortedError>([&] { communicator->barrier(); }), HasSubstr("failed first with"));
    });
  }
}

TEST(Communicator, DifferentKindsOfMemoryAreAMismatchThatSaysSo) {
  const auto store = make_memory_store();
  run_ranks(2, [&](int rank) {
    const auto communicator = join(store, rank, 2);
    const BackendMemory memory = communicator->allocate(1 << 20);
    std::vector<std::byte> heap(1 << 20);
    void* const data = rank == 0 ? memory.data : heap.data();
    EXPECT_THAT(text_of<MismatchError>([&] { communicator->all_reduce(data, data, 1 << 18, DType::kFloat32); }),
                HasSubstr("same kind of memory"));
  });
}

TEST(Communicator, TimeoutNamesWhoIsMissingAndWhereItWas) {
  const auto store = make_memory_store();
  std::atomic<int> begun{0};
  std::atomic<int> timed_out{0};
  run_ranks(3, [&](int rank) {
    const auto communicator = join(store, rank, 3);
    communicator->barrier();
    if (rank == 2) {  // Stays away, but alive, until the others have given up.
      while (timed_out.load() != 2) std::this_thread::yield();
      EXPECT_THAT(text_of<AbortedError>([&] { communicator->barrier(); }), HasSubstr("gave up on this rank"));
      return;
    }
    float x = 0;
    try {
      Work work = communicator->all_reduce_async(&x, &x, 1, DType::kFloat32, ReduceOp::kSum,
                                                 {.timeout = std::chrono::milliseconds(200), .label = "the loss"});
      // One that begins late would be missing as well.
      ++begun;
      while (begun.load() != 2) std::this_thread::yield();
      work.wait();
      ADD_FAILURE() << "no timeout";
    } catch (const TimeoutError& error) {
      EXPECT_EQ(error.waiting_for(), 2);
      EXPECT_EQ(error.sequence(), 2u);
      EXPECT_THAT(error.what(), AllOf(HasSubstr("all_reduce #2 (1 f32, sum, the loss) timed out after 0.2 s"),
                                      HasSubstr("waiting for rank 2, last seen in barrier #1")));
    }
    ++timed_out;
  });
}

TEST(Communicator, ARankThatLeavesIsNoticedLongBeforeTheDeadline) {
  const auto store = make_memory_store();
  run_ranks(2, [&](int rank) {
    auto communicator = join(store, rank, 2, std::chrono::seconds(3600));
    if (rank == 1) return;
    try {
      communicator->barrier();
      ADD_FAILURE() << "no error";
    } catch (const PeerError& error) {
      EXPECT_EQ(error.rank(), 1);
      EXPECT_THAT(error.what(), HasSubstr("rank 1 left the group"));
    }
  });
}

TEST(Communicator, AbortFreesEveryWaiterWithTheCause) {
  const auto store = make_memory_store();
  run_ranks(3, [&](int rank) {
    const auto communicator = join(store, rank, 3, std::chrono::seconds(3600));
    std::thread other;
    if (rank == 0) {
      other = std::thread([&] { communicator->abort("the user pressed stop"); });
    }
    const std::string text = text_of<AbortedError>([&] {
      for (;;) communicator->barrier();
    });
    EXPECT_THAT(text, HasSubstr("the user pressed stop"));
    if (other.joinable()) other.join();
  });
}

TEST(Communicator, FailureWritesTheRecordersFile) {
  const auto store = make_memory_store();
  const io::TempDirectory directory("flight");
  ::setenv("LOCKSTEP_FLIGHT_DIR", directory.path().c_str(), 1);
  run_ranks(2, [&](int rank) {
    const auto communicator = join(store, rank, 2, std::chrono::seconds(30), "dp/0");
    float x = 0;
    communicator->all_reduce(&x, &x, 1, DType::kFloat32, ReduceOp::kSum, {.timeout = {}, .label = "loss"});
    text_of<MismatchError>(
        [&] { rank == 0 ? communicator->barrier() : communicator->broadcast(&x, 1, DType::kFloat32, 0); });
  });
  ::unsetenv("LOCKSTEP_FLIGHT_DIR");
  for (const int rank : {0, 1}) {
    std::ifstream in(directory.path() + "/flight_dp_0_rank" + std::to_string(rank) + ".json");
    const auto file = nlohmann::json::parse(in);
    EXPECT_EQ(file["rank"], rank);
    EXPECT_THAT(file["failure"].get<std::string>(), HasSubstr("disagree"));
    ASSERT_EQ(file["operations"].size(), 2u);
    EXPECT_EQ(file["operations"][0]["kind"], "all_reduce");
    EXPECT_EQ(file["operations"][0]["label"], "loss");
    EXPECT_NE(file["operations"][0]["finished_ms"], 0);
    EXPECT_EQ(file["operations"][1]["kind"], rank == 0 ? "barrier" : "broadcast");
    EXPECT_EQ(file["operations"][1]["finished_ms"], 0);
  }
}

TEST(Communicator, TheRecorderKeepsTheLastOperations) {
  struct Capacity {
    std::size_t asked, kept;
  };
  for (const auto [asked, kept] : {Capacity{0, 1}, Capacity{1, 1}, Capacity{3, 4}}) {
    const io::TempDirectory directory("flight");
    CommunicatorOptions options;
    options.recorder_capacity = asked;
    options.dump_directory = directory.path();
    const auto communicator = Communicator::create(make_self_backend(), options);
    for (int i = 0; i < 6; ++i) communicator->barrier();
    communicator->end("the test is over");
    std::ifstream in(directory.path() + "/flight_world_rank0.json");
    const auto operations = nlohmann::json::parse(in)["operations"];
    ASSERT_EQ(operations.size(), kept);
    for (std::size_t i = 0; i < kept; ++i) EXPECT_EQ(operations[i]["sequence"], 6 - kept + i + 1);
  }
}

TEST(Communicator, InitNamesTheRanksThatNeverArrive) {
  const auto store = make_memory_store();
  InitOptions options;
  options.init_timeout = std::chrono::milliseconds(100);
  EXPECT_THAT(text_of<TimeoutError>([&] { make_communicator(store, 0, 3, options); }), HasSubstr("for rank(s) 1, 2"));
  EXPECT_THAT(text_of<TimeoutError>([&] { make_communicator(make_memory_store(), 1, 2, options); }),
              HasSubstr("for rank(s) 0"));
}

TEST(Communicator, WorldSizesMustAgree) {
  const auto store = make_memory_store();
  run_ranks(2, [&](int rank) {
    InitOptions options;
    options.init_timeout = std::chrono::seconds(30);
    const int told = rank == 0 ? 3 : 2;
    EXPECT_THAT(text_of<UsageError>([&] { make_communicator(store, rank, told, options); }), HasSubstr("world size"));
  });
}

TEST(Communicator, BackendMemoryOutlivesItsGroup) {
  const auto store = make_memory_store();
  run_ranks(2, [&](int rank) {
    auto communicator = join(store, rank, 2);
    const BackendMemory memory = communicator->allocate(100000);
    auto* const data = static_cast<float*>(memory.data);
    for (int i = 0; i < 25000; ++i) ASSERT_EQ(data[i], 0.0f);
    data[24999] = static_cast<float>(rank + 1);
    communicator->all_reduce(data, data, 25000, DType::kFloat32);
    communicator.reset();
    EXPECT_EQ(data[24999], 3.0f);
  });
}

TEST(Communicator, MemoryFreedAtDifferentTimesDoesNotDisturbLaterAllocations) {
  const auto store = make_memory_store();
  run_ranks(3, [&](int rank) {
    const auto communicator = join(store, rank, 3);
    BackendMemory first = communicator->allocate(50000);
    if (rank == 1) first = {};
    const BackendMemory second = communicator->allocate(50000);
    if (rank == 2) first = {};
    const BackendMemory third = communicator->allocate(70000);
    for (const BackendMemory* memory : {&second, &third}) {
      auto* const data = static_cast<std::int32_t*>(memory->data);
      for (int i = 0; i < 12000; ++i) data[i] = rank + i;
      communicator->all_reduce(data, data, 12000, DType::kInt32);
      for (int i = 0; i < 12000; ++i) ASSERT_EQ(data[i], 3 + 3 * i);
    }
  });
}

TEST(Communicator, MemoryThatARankHasFreedIsNotReachedForItsPeers) {
  const auto store = make_memory_store();
  run_ranks(2, [&](int rank) {
    const auto communicator = join(store, rank, 2);
    BackendMemory first = communicator->allocate(50000);
    const BackendMemory second = communicator->allocate(50000);
    if (rank == 1) first = {};
    auto* const data = static_cast<float*>(rank == 0 ? first.data : second.data);
    const auto reduce = [&] { communicator->all_reduce(data, data, 12000, DType::kFloat32); };
    EXPECT_THAT(text_of<Error>(reduce), HasSubstr("uses backend memory that this rank has freed"));
  });
}

TEST(Communicator, AnAllocationThatNoAddressReachesIsRefusedOnEveryRank) {
  const auto store = make_memory_store();
  run_ranks(2, [&](int rank) {
    const auto communicator = join(store, rank, 2);
    // A rank may hear of the other's first.
    EXPECT_THAT(text_of<Error>([&] { communicator->allocate(std::size_t{1} << 41); }), HasSubstr("it takes up to"));
  });
}

// Around the size of a huge page, from which on parts begin with one: none reaches into another's. And around 3 MiB,
// from which on three ranks reduce in turns.
TEST(Communicator, LargeAllocationsLieApart) {
  const auto store = make_memory_store();
  run_ranks(3, [&](int rank) {
    const auto communicator = join(store, rank, 3);
    std::vector<BackendMemory> kept;
    std::vector<std::size_t> counts;
    for (const std::size_t nbytes : {8u, 2097148u, 2097152u, 4u, 2097156u, 3145724u, 3145728u, 3145732u, 5242884u}) {
      counts.push_back(nbytes / 4);
      kept.push_back(communicator->allocate(nbytes));
      auto* const data = static_cast<std::int32_t*>(kept.back().data);
      for (std::size_t i = 0; i < counts.back(); ++i) data[i] = rank + static_cast<std::int32_t>(i % 1000 + nbytes);
    }
    for (std::size_t k = 0; k < kept.size(); ++k) {
      auto* const data = static_cast<std::int32_t*>(kept[k].data);
      communicator->all_reduce(data, data, counts[k], DType::kInt32);
      for (std::size_t i = 0; i < counts[k]; ++i) {
        ASSERT_EQ(data[i], 3 + 3 * static_cast<std::int32_t>(i % 1000 + counts[k] * 4)) << k << " " << i;
      }
    }
  });
}

}  // namespace
}  // namespace lockstep
