// Every operation x dtype x world x awkward count x in place or not x both kinds of memory, on exact inputs with ==.

#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/core/comm/communicator.h"
#include "lockstep/core/comm/init.h"
#include "lockstep/core/store/store.h"
#include "tests/support/ranks.h"
#include "tests/unit/core/comm/exact.h"

namespace lockstep {
namespace {

using support::run_ranks;
using testing::contribution;
using testing::expected;
using testing::get;
using testing::put;

/// A buffer of one rank: from the heap, or handed out by the backend.
class Buffer {
 public:
  Buffer(Communicator& communicator, bool shared, std::size_t nbytes) {
    if (shared) {
      memory_ = communicator.allocate(nbytes);
      data_ = static_cast<std::byte*>(memory_.data);
    } else {
      heap_.resize(nbytes + 1);
      data_ = heap_.data();
    }
  }
  void* data() { return data_; }
  std::byte* at(std::size_t nbytes) { return data_ + nbytes; }

 private:
  BackendMemory memory_;
  std::vector<std::byte> heap_;
  std::byte* data_ = nullptr;
};

struct World {
  int size;
  bool shared;
};

std::string name_of_world(const ::testing::TestParamInfo<World>& info) {
  return std::to_string(info.param.size) + (info.param.shared ? "_backend" : "_user");
}

class Collectives : public ::testing::TestWithParam<World> {
 protected:
  template <typename Body>
  void on_all_ranks(Body body) {
    const auto store = make_memory_store();
    const int world = GetParam().size;
    run_ranks(world, [&](int rank) {
      InitOptions options;
      options.timeout = std::chrono::seconds(60);
      const auto communicator = make_communicator(store, rank, world, options);
      body(*communicator, rank, world);
      communicator->barrier();
    });
  }
  /// Around the boundaries of chunks, cache lines, and every path's limits.
  std::vector<std::size_t> counts() const {
    const auto p = static_cast<std::size_t>(GetParam().size);
    return {0, 1, p - 1, p, p + 1, 23, 1031, 20011, 150001};
  }
  bool shared() const { return GetParam().shared; }
};

void fill(void* data, std::size_t count, std::size_t offset, int rank, DType dtype, ReduceOp op) {
  for (std::size_t i = 0; i < count; ++i) {
    put(data, i, dtype, static_cast<double>(contribution(rank, offset + i, op)));
  }
}

/// Number of elements of `data` that differ from the reduction of elements offset, offset + 1, ...
std::size_t count_wrong(const void* data, std::size_t count, std::size_t offset, int world, DType dtype, ReduceOp op) {
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < count; ++i) {
    double want = expected(offset + i, world, op, dtype);
    if (op == ReduceOp::kAvg) {
      const float factor = 1.0f / static_cast<float>(world);
      want =
          dtype == DType::kFloat64 ? want * (1.0 / world) : testing::rounded(static_cast<float>(want) * factor, dtype);
    }
    if (get(data, i, dtype) != want) ++wrong;
  }
  return wrong;
}

template <typename Body>
void for_each_reduction(Body body) {
  for (int d = 0; d < kDTypeCount; ++d) {
    for (int o = 0; o < kReduceOpCount; ++o) {
      const auto dtype = static_cast<DType>(d);
      const auto op = static_cast<ReduceOp>(o);
      if (is_supported(op, dtype)) body(dtype, op);
    }
  }
}

TEST_P(Collectives, AllReduce) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    Buffer input(communicator, shared(), 150001 * 8);
    Buffer output(communicator, shared(), 150001 * 8);
    for_each_reduction([&](DType dtype, ReduceOp op) {
      for (const std::size_t count : counts()) {
        // The large counts differ from the small ones in the path, not in the kernel.
        if (count > 2000 && op != ReduceOp::kSum && op != ReduceOp::kAvg) continue;
        for (const bool in_place : {false, true}) {
          void* const result = in_place ? input.data() : output.data();
          fill(input.data(), count, 0, rank, dtype, op);
          communicator.all_reduce(input.data(), result, count, dtype, op);
          ASSERT_EQ(count_wrong(result, count, 0, world, dtype, op), 0u)
              << name_of(dtype) << ' ' << name_of(op) << " count " << count << " in place " << in_place;
        }
      }
    });
  });
}

TEST_P(Collectives, ReduceScatter) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const auto p = static_cast<std::size_t>(world);
    Buffer input(communicator, shared(), p * 40009 * 8);
    Buffer output(communicator, shared(), 40009 * 8);
    for_each_reduction([&](DType dtype, ReduceOp op) {
      for (const std::size_t count : {std::size_t{0}, std::size_t{1}, p + 1, std::size_t{1031}, std::size_t{40009}}) {
        if (count > 2000 && op != ReduceOp::kSum && op != ReduceOp::kAvg) continue;
        const std::size_t own = static_cast<std::size_t>(rank) * count;
        for (const bool in_place : {false, true}) {
          fill(input.data(), p * count, 0, rank, dtype, op);
          void* const result = in_place ? input.at(own * size_of(dtype)) : output.data();
          communicator.reduce_scatter(input.data(), result, count, dtype, op);
          ASSERT_EQ(count_wrong(result, count, own, world, dtype, op), 0u)
              << name_of(dtype) << ' ' << name_of(op) << " count " << count << " in place " << in_place;
        }
      }
    });
  });
}

TEST_P(Collectives, AllGather) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const auto p = static_cast<std::size_t>(world);
    Buffer input(communicator, shared(), 150001 * 8);
    Buffer output(communicator, shared(), p * 150001 * 8);
    for (const DType dtype : {DType::kUInt8, DType::kFloat16, DType::kFloat32, DType::kInt64}) {
      for (const std::size_t count : counts()) {
        for (const bool in_place : {false, true}) {
          const std::size_t own = static_cast<std::size_t>(rank) * count * size_of(dtype);
          void* const contributed = in_place ? output.at(own) : input.data();
          fill(contributed, count, 0, rank, dtype, ReduceOp::kSum);
          communicator.all_gather(contributed, output.data(), count, dtype);
          for (int peer = 0; peer < world; ++peer) {
            const std::size_t at = static_cast<std::size_t>(peer) * count;
            for (std::size_t i = 0; i < count; ++i) {
              ASSERT_EQ(get(output.data(), at + i, dtype), static_cast<double>(contribution(peer, i, ReduceOp::kSum)))
                  << name_of(dtype) << " count " << count << " from " << peer << " element " << i;
            }
          }
        }
      }
    }
  });
}

TEST_P(Collectives, BroadcastFromEveryRoot) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    Buffer data(communicator, shared(), 150001 * 8);
    for (const DType dtype : {DType::kBool, DType::kBFloat16, DType::kInt32, DType::kFloat64}) {
      for (const std::size_t count : counts()) {
        for (int root = 0; root < world; ++root) {
          if (count > 30000 && root != world - 1) continue;
          fill(data.data(), count, static_cast<std::size_t>(rank), rank, dtype, ReduceOp::kSum);
          communicator.broadcast(data.data(), count, dtype, root);
          for (std::size_t i = 0; i < count; ++i) {
            double want = static_cast<double>(contribution(root, static_cast<std::size_t>(root) + i, ReduceOp::kSum));
            if (dtype == DType::kBool) want = want != 0;
            ASSERT_EQ(get(data.data(), i, dtype), want) << name_of(dtype) << " count " << count << " root " << root;
          }
        }
      }
    }
  });
}

TEST_P(Collectives, ManyInFlightCompleteInOrder) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    constexpr int kInFlight = 300;  // More than the engine holds: starting must make room.
    constexpr std::size_t kCount = 5000;
    Buffer data(communicator, shared(), kInFlight * kCount * 4);
    std::vector<Work> works;
    for (int k = 0; k < kInFlight; ++k) {
      auto* const part = data.at(static_cast<std::size_t>(k) * kCount * 4);
      fill(part, kCount, static_cast<std::size_t>(k), rank, DType::kFloat32, ReduceOp::kSum);
      works.push_back(communicator.all_reduce_async(part, part, kCount, DType::kFloat32));
    }
    works.back().wait();
    for (int k = 0; k < kInFlight; ++k) {
      ASSERT_TRUE(works[static_cast<std::size_t>(k)].done());
      ASSERT_EQ(count_wrong(data.at(static_cast<std::size_t>(k) * kCount * 4), kCount, static_cast<std::size_t>(k),
                            world, DType::kFloat32, ReduceOp::kSum),
                0u);
    }
  });
}

TEST_P(Collectives, OperationsOnOneBufferKeepTheirOrder) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    // Sum, then maximum of the sums, then broadcast: each must see the result of the one before.
    for (const std::size_t count : {std::size_t{5}, std::size_t{1000}, std::size_t{200003}}) {
      Buffer data(communicator, shared(), count * 4);
      fill(data.data(), count, 0, rank, DType::kInt32, ReduceOp::kSum);
      communicator.all_reduce_async(data.data(), data.data(), count, DType::kInt32);
      communicator.all_reduce_async(data.data(), data.data(), count, DType::kInt32, ReduceOp::kSum);
      Work last = communicator.broadcast_async(data.data(), count, DType::kInt32, world - 1);
      last.wait();
      for (std::size_t i = 0; i < count; ++i) {
        ASSERT_EQ(get(data.data(), i, DType::kInt32), world * expected(i, world, ReduceOp::kSum, DType::kInt32)) << i;
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Worlds, Collectives,
                         ::testing::Values(World{1, false}, World{1, true}, World{2, false}, World{2, true},
                                           World{3, false}, World{3, true}, World{4, false}, World{4, true},
                                           World{5, false}, World{5, true}, World{8, false}, World{8, true}),
                         name_of_world);

}  // namespace
}  // namespace lockstep
