// send and recv: sizes across every limit, tags, any source, many at once, both ways at once, among collectives.

#include <array>
#include <atomic>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/core/comm/collective_fixture.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::on_ranks;
using testing::Pattern;

constexpr DType kFloat = DType::kFloat32;
constexpr DType kByte = DType::kUInt8;

/// Around every power of two up to 4 MiB: whatever limits there are lie close to some of them.
std::vector<std::size_t> sizes() {
  std::vector<std::size_t> all = {0, 1, 3};
  for (std::size_t size = 4; size <= (4u << 20); size *= 2) all.insert(all.end(), {size - 1, size, size + 1});
  all.insert(all.end(), {48, 80, 88, 100, 1000, 5000, 100003, 3000017, (5u << 20) + 13});
  return all;
}

class Messages : public testing::CollectiveTest {};

TEST_P(Messages, OfEverySizeArriveFromEveryRank) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    constexpr std::size_t kLongest = (5u << 20) + 13;
    testing::Buffer out(communicator, shared(), kLongest);
    testing::Buffer in(communicator, shared(), kLongest);
    Pattern::of_rank(rank, kByte).write(out.data(), kLongest);
    const int to = (rank + 1) % world;
    const int from = (rank + world - 1) % world;
    for (const std::size_t size : sizes()) {
      if (world > 4 && size > 300000) continue;
      // A ring of blocking calls: the first rank begins, the others pass it on; then all at once.
      in.prepare(size);
      if (rank == 0) {
        Work sent = communicator.send_async(out.data(), size, kByte, to, 5);
        ASSERT_EQ(communicator.recv(in.data(), size, kByte, from, 5), from) << size;
        sent.wait();
      } else {
        ASSERT_EQ(communicator.recv(in.data(), size, kByte, from, 5), from) << size;
        communicator.send(out.data(), size, kByte, to, 5);
      }
      ASSERT_EQ(Pattern::of_rank(from, kByte).count_wrong(in.data(), size), 0u) << size;
      ASSERT_TRUE(in.guards_hold()) << size;
      in.prepare(size);
      Work received = communicator.recv_async(in.data(), size, kByte, from);
      Work sent = communicator.send_async(out.data(), size, kByte, to);
      received.wait();
      sent.wait();
      ASSERT_EQ(Pattern::of_rank(from, kByte).count_wrong(in.data(), size), 0u) << size;
      ASSERT_TRUE(in.guards_hold()) << size;
    }
  });
}

TEST_P(Messages, OfEveryDType) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    testing::Buffer out(communicator, shared(), 40000 * 8);
    testing::Buffer in(communicator, shared(), 40000 * 8);
    for (int d = 0; d < kDTypeCount; ++d) {
      const auto dtype = static_cast<DType>(d);
      for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{11}, std::size_t{40000}}) {
        for (int shift = 0; shift < world; ++shift) {
          const int to = (rank + shift) % world;
          const int from = (rank + world - shift) % world;
          Pattern::of_rank(rank, dtype).write(out.data(), count, static_cast<std::size_t>(shift));
          in.prepare(count * size_of(dtype));
          Work sent = communicator.send_async(out.data(), count, dtype, to, shift);
          ASSERT_EQ(communicator.recv(in.data(), count, dtype, from, shift), from);
          sent.wait();
          ASSERT_EQ(Pattern::of_rank(from, dtype).count_wrong(in.data(), count, static_cast<std::size_t>(shift)), 0u)
              << name_of(dtype) << ' ' << count << " shift " << shift;
          ASSERT_TRUE(in.guards_hold());
        }
      }
    }
  });
}

// Everyone sends to everyone, itself included, several of each size; receives in another order than the sends.
TEST_P(Messages, ManyOutstandingBetweenAllPairs) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const std::array<std::size_t, 5> counts = {0, 7, 300, 5000, 70001};
    constexpr int kRounds = 3;
    std::vector<float> out(70001 + 64);
    Pattern::of_rank(rank, kFloat).write(out.data(), out.size());
    std::vector<Work> sends;
    std::vector<Work> receives;
    for (int round = 0; round < kRounds; ++round) {
      for (int peer = 0; peer < world; ++peer) {
        for (std::size_t k = 0; k < counts.size(); ++k) {
          const auto offset = static_cast<std::size_t>(round * 5 + peer);
          sends.push_back(communicator.send_async(out.data() + offset, counts[k], kFloat, peer, static_cast<int>(k)));
        }
      }
    }
    struct Expected {
      std::vector<float> data;
      int source;
      std::size_t offset;
    };
    std::vector<Expected> expected;
    expected.reserve(static_cast<std::size_t>(kRounds * world) * counts.size());
    for (std::size_t k = counts.size(); k-- > 0;) {
      for (int peer = world; peer-- > 0;) {
        for (int round = 0; round < kRounds; ++round) {
          expected.push_back({std::vector<float>(counts[k]), peer, static_cast<std::size_t>(round * 5 + rank)});
          receives.push_back(
              communicator.recv_async(expected.back().data.data(), counts[k], kFloat, peer, static_cast<int>(k)));
        }
      }
    }
    for (Work& work : receives) work.wait();
    for (Work& work : sends) work.wait();
    for (const Expected& e : expected) {
      ASSERT_EQ(Pattern::of_rank(e.source, kFloat).count_wrong(e.data.data(), e.data.size(), e.offset), 0u)
          << e.data.size() << " from " << e.source;
    }
  });
}

TEST_P(Messages, AmongCollectivesInFlight) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const Pattern& mine = Pattern::of_rank(rank, kFloat);
    const int to = (rank + 1) % world;
    const int from = (rank + world - 1) % world;
    for (const std::size_t count : {std::size_t{3}, std::size_t{3001}, std::size_t{200003}}) {
      testing::Buffer sum(communicator, shared(), count * 4);
      testing::Buffer out(communicator, shared(), count * 4);
      testing::Buffer in(communicator, shared(), count * 4);
      mine.write(sum.data(), count);
      mine.write(out.data(), count, 9);
      // Each rank begins these in its own order: messages have no part in the order of collectives.
      std::vector<Work> works;
      const auto collective = [&] {
        works.push_back(communicator.all_reduce_async(sum.data(), sum.data(), count, kFloat));
        works.push_back(communicator.barrier_async());
      };
      const auto send = [&] { works.push_back(communicator.send_async(out.data(), count, kFloat, to)); };
      const auto receive = [&] { works.push_back(communicator.recv_async(in.data(), count, kFloat, from)); };
      if (rank % 3 == 0) collective(), send(), receive();
      if (rank % 3 == 1) receive(), collective(), send();
      if (rank % 3 == 2) send(), receive(), collective();
      if (rank % 2 == 0) std::reverse(works.begin(), works.end());
      for (Work& work : works) work.wait();
      ASSERT_EQ(Pattern::of_result(world, kFloat).count_wrong(sum.data(), count), 0u) << count;
      ASSERT_EQ(Pattern::of_rank(from, kFloat).count_wrong(in.data(), count, 9), 0u) << count;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Worlds, Messages, testing::all_worlds(), testing::name_of_world);

TEST(Messages, OfOneTagKeepTheirOrderWhateverTheirSizes) {
  on_ranks(2, [](Communicator& communicator, int rank, int) {
    std::mt19937 random(11);
    std::vector<std::vector<std::uint8_t>> messages(200);
    for (std::size_t k = 0; k < messages.size(); ++k) {
      const std::size_t size = random() % 5 == 0 ? random() % 400000 : random() % 300;
      messages[k].assign(size, static_cast<std::uint8_t>(k));
    }
    std::vector<Work> works;
    std::vector<std::vector<std::uint8_t>> received(messages.size());
    for (std::size_t k = 0; k < messages.size(); ++k) {
      const std::size_t size = messages[k].size();
      if (rank == 0) {
        works.push_back(communicator.send_async(messages[k].data(), size, kByte, 1, 4));
      } else if (received[k].resize(size); k % 3 == 0) {
        communicator.recv(received[k].data(), size, kByte, k % 2 == 0 ? 0 : kAnySource, 4);
      } else {
        works.push_back(communicator.recv_async(received[k].data(), size, kByte, 0, 4));
      }
    }
    for (Work& work : works) work.wait();
    if (rank == 1) {
      EXPECT_EQ(received, messages);
    }
  });
}

TEST(Messages, TagsAreTakenInAnyOrder) {
  on_ranks(2, [](Communicator& communicator, int rank, int) {
    constexpr int kTags = 60;
    // Small ones wait for their receive on the receiver's side, large ones on the sender's.
    for (const std::size_t count : {std::size_t{1}, std::size_t{5000}, std::size_t{60000}}) {
      std::vector<std::vector<float>> data(kTags, std::vector<float>(count));
      std::vector<Work> works;
      if (rank == 0) {
        for (int tag = 0; tag < kTags; ++tag) {
          auto& message = data[static_cast<std::size_t>(tag)];
          message.assign(count, static_cast<float>(tag));
          works.push_back(communicator.send_async(message.data(), count, kFloat, 1, tag));
        }
      } else {
        for (int k = 0; k < kTags; ++k) {
          const int tag = (k * 37 + 13) % kTags;
          auto& message = data[static_cast<std::size_t>(tag)];
          if (k % 2 == 0) {
            EXPECT_EQ(communicator.recv(message.data(), count, kFloat, 0, tag), 0);
          } else {
            works.push_back(communicator.recv_async(message.data(), count, kFloat, 0, tag));
          }
        }
      }
      for (Work& work : works) work.wait();
      for (int tag = 0; tag < kTags; ++tag) {
        ASSERT_EQ(data[static_cast<std::size_t>(tag)], std::vector<float>(count, static_cast<float>(tag))) << tag;
      }
    }
    // The largest tag is a tag like others.
    float x = rank == 0 ? 7 : 0;
    if (rank == 0) communicator.send(&x, 1, kFloat, 1, 2147483647);
    if (rank == 1) communicator.recv(&x, 1, kFloat, 0, 2147483647);
    EXPECT_EQ(x, 7);
  });
}

TEST(Messages, UnexpectedOnesWaitForTheirReceive) {
  on_ranks(3, [](Communicator& communicator, int rank, int) {
    constexpr std::size_t kMessages = 400;  // Small ones, so that sending them needs no receive.
    std::vector<float> values(kMessages);
    if (rank != 0) {
      for (std::size_t k = 0; k < kMessages; ++k) {
        const float value = static_cast<float>(1000 * rank) + static_cast<float>(k);
        communicator.send(&value, 1, kFloat, 0, static_cast<int>(k % 4));
      }
    }
    communicator.barrier();  // All are sent; none is received.
    if (rank == 0) {
      for (const int source : {2, 1}) {
        for (std::size_t tag = 4; tag-- > 0;) {
          for (std::size_t k = tag; k < kMessages; k += 4) {
            communicator.recv(&values[k], 1, kFloat, source, static_cast<int>(tag));
          }
        }
        for (std::size_t k = 0; k < kMessages; ++k) {
          ASSERT_EQ(values[k], static_cast<float>(1000 * source) + static_cast<float>(k));
        }
      }
    }
  });
}

TEST(Messages, AnySourceTakesEachOnceAndSaysWhose) {
  for (const std::size_t count : {std::size_t{1}, std::size_t{2000}, std::size_t{100000}}) {
    on_ranks(5, [&](Communicator& communicator, int rank, int world) {
      constexpr int kEach = 6;
      std::vector<float> data(count);
      if (rank != 2) {
        for (int k = 0; k < kEach; ++k) {
          std::fill(data.begin(), data.end(), static_cast<float>(10 * rank + k));
          communicator.send(data.data(), count, kFloat, 2, 1);
        }
        return;
      }
      std::vector<int> next(static_cast<std::size_t>(world), 0);
      for (int k = 0; k < kEach * (world - 1); ++k) {
        const int source = communicator.recv(data.data(), count, kFloat, kAnySource, 1);
        ASSERT_TRUE(source >= 0 && source < world && source != 2) << source;
        // In each source's own order.
        const int number = next[static_cast<std::size_t>(source)]++;
        ASSERT_EQ(data, std::vector<float>(count, static_cast<float>(10 * source + number))) << "from " << source;
      }
    });
  }
}

TEST(Messages, AnySourceLeavesOtherTagsAlone) {
  on_ranks(2, [](Communicator& communicator, int rank, int) {
    float a = 1;
    float b = 2;
    if (rank == 0) {
      communicator.send(&a, 1, kFloat, 1, 8);
      communicator.send(&b, 1, kFloat, 1, 9);
    } else {
      float x = 0;
      EXPECT_EQ(communicator.recv(&x, 1, kFloat, kAnySource, 9), 0);
      EXPECT_EQ(x, 2);
      EXPECT_EQ(communicator.recv(&x, 1, kFloat, kAnySource, 8), 0);
      EXPECT_EQ(x, 1);
    }
  });
}

// More than any table of completed messages holds: each Work still ends, and knows who was at its other end.
TEST(Messages, ThousandsOutstandingAreEachRemembered) {
  on_ranks(3, [](Communicator& communicator, int rank, int world) {
    constexpr int kEach = 1500;
    std::vector<std::int32_t> out(kEach);
    std::iota(out.begin(), out.end(), rank * 100000);
    if (rank != 0) {
      std::vector<Work> works;
      for (int k = 0; k < kEach; ++k) works.push_back(communicator.send_async(&out[k], 1, DType::kInt32, 0, 1));
      for (Work& work : works) {
        work.wait();
        ASSERT_EQ(work.peer(), 0);
      }
      return;
    }
    std::vector<std::int32_t> in(static_cast<std::size_t>(kEach * (world - 1)), -1);
    std::vector<Work> works;
    for (std::int32_t& x : in) works.push_back(communicator.recv_async(&x, 1, DType::kInt32, kAnySource, 1));
    works.back().wait();
    std::vector<int> next(static_cast<std::size_t>(world), 0);
    for (std::size_t k = 0; k < in.size(); ++k) {
      Work copy = works[k];
      copy.wait();
      EXPECT_TRUE(works[k].done());
      const int source = works[k].peer();
      EXPECT_EQ(copy.peer(), source);
      ASSERT_TRUE(source == 1 || source == 2) << source;
      ASSERT_EQ(in[k], source * 100000 + next[static_cast<std::size_t>(source)]++);
    }
  });
}

TEST(Messages, BothWaysAtOnceWithBlockingReceives) {
  on_ranks(2, [](Communicator& communicator, int rank, int) {
    for (const std::size_t count : {std::size_t{10}, std::size_t{20000}, std::size_t{1000003}}) {
      std::vector<float> out(count, static_cast<float>(rank + 1));
      std::vector<float> in(count);
      for (int k = 0; k < 3; ++k) {
        Work sent = communicator.send_async(out.data(), count, kFloat, 1 - rank, k);
        communicator.recv(in.data(), count, kFloat, 1 - rank, k);
        sent.wait();
        ASSERT_EQ(in, std::vector<float>(count, static_cast<float>(2 - rank))) << count;
      }
    }
  });
}

// Many large sends that nobody receives yet must not stand in the way of anything else.
TEST(Messages, ALargeSendLeavesOtherPairsAndTagsAlone) {
  on_ranks(3, [](Communicator& communicator, int rank, int) {
    std::vector<float> large(500000, static_cast<float>(rank));
    float x = static_cast<float>(rank);
    if (rank == 0) {
      std::vector<Work> works;
      for (int k = 0; k < 4; ++k) works.push_back(communicator.send_async(large.data(), large.size(), kFloat, 1, 1));
      communicator.send(&x, 1, kFloat, 2, 0);
      communicator.recv(&x, 1, kFloat, 2, 0);
      EXPECT_EQ(x, 2);
      communicator.barrier();
      for (Work& work : works) work.wait();
    } else if (rank == 2) {
      float y = -1;
      communicator.recv(&y, 1, kFloat, 0, 0);
      EXPECT_EQ(y, 0);
      communicator.send(&x, 1, kFloat, 0, 0);
      communicator.barrier();
    } else {
      communicator.barrier();
      for (int k = 0; k < 4; ++k) {
        communicator.recv(large.data(), large.size(), kFloat, 0, 1);
        ASSERT_EQ(large, std::vector<float>(500000, 0.0f));
        large.assign(500000, 1.0f);
      }
    }
  });
}

TEST(Messages, WhatWasSentArrivesAfterItsSenderLeft) {
  const auto store = make_memory_store();
  std::atomic<bool> left{false};
  support::run_ranks(2, [&](int rank) {
    auto communicator = make_communicator(store, rank, 2);
    std::vector<float> data(9, 4.0f);
    if (rank == 0) {
      communicator->send(data.data(), 9, kFloat, 1, 3);
      communicator.reset();
      left.store(true);
      return;
    }
    while (!left.load()) std::this_thread::yield();
    data.assign(9, 0.0f);
    communicator->recv(data.data(), 9, kFloat, 0, 3);
    EXPECT_EQ(data, std::vector<float>(9, 4.0f));
    try {
      communicator->recv(data.data(), 9, kFloat, 0, 3);
      ADD_FAILURE() << "no error";
    } catch (const PeerError& error) {
      EXPECT_EQ(error.rank(), 0);
      EXPECT_THAT(error.what(), HasSubstr("rank 0 left the group"));
    }
  });
}

}  // namespace
}  // namespace lockstep
