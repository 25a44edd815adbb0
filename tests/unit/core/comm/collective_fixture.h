#pragma once
// Worlds of ranks as threads, and buffers whose surroundings are watched, for tests of the operations' results.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/core/backend/hier/hier_backend.h"
#include "lockstep/core/backend/wire/wire_backend.h"
#include "lockstep/core/comm/communicator.h"
#include "lockstep/core/comm/init.h"
#include "lockstep/core/store/store.h"
#include "tests/support/exact.h"
#include "tests/support/ranks.h"
#include "tests/support/thread_transport.h"

namespace lockstep::testing {

/// A buffer of one rank: from the heap, or handed out by the backend. On both sides of its part in use there are bytes
/// that must not change.
class Buffer {
 public:
  static constexpr std::size_t kGuard = 64;

  /// Collective where `shared`.
  Buffer(Communicator& communicator, bool shared, std::size_t nbytes) : capacity_(nbytes) {
    if (shared) {
      memory_ = communicator.allocate(nbytes + 2 * kGuard);
      data_ = static_cast<std::byte*>(memory_.data);
    } else {
      heap_.resize(nbytes + 2 * kGuard);
      data_ = heap_.data();
    }
  }

  std::byte* data() { return data_ + kGuard; }
  std::byte* at(std::size_t nbytes) { return data() + nbytes; }
  std::size_t capacity() const noexcept { return capacity_; }

  /// Begins a use of the first `nbytes`: they and the bytes around them get a known value.
  std::byte* prepare(std::size_t nbytes) {
    used_ = nbytes;
    std::fill_n(data_, nbytes + 2 * kGuard, kUntouched);
    return data();
  }
  /// The bytes around the part in use are as prepare() left them.
  bool guards_hold() const { return is_untouched(data_, kGuard) && is_untouched(data_ + kGuard + used_, kGuard); }
  /// And the part itself.
  bool untouched() const { return is_untouched(data_, used_ + 2 * kGuard); }

 private:
  static constexpr std::byte kUntouched{0xA5};
  static bool is_untouched(const std::byte* from, std::size_t nbytes) {
    // Each byte equals the one before it.
    return nbytes == 0 || (*from == kUntouched && std::memcmp(from, from + 1, nbytes - 1) == 0);
  }

  BackendMemory memory_;
  std::vector<std::byte> heap_;
  std::byte* data_ = nullptr;
  std::size_t capacity_;
  std::size_t used_ = 0;
};

struct World {
  int size;
  bool shared;  ///< buffers lie in backend memory
  std::string backend =
      "shm";  ///< shm; wire: a network's engine over threads; hier: that between hosts that share memory
  std::vector<int> host_of = {};  ///< of hier: each rank's
  bool any_thread = true;         ///< of wire and hier: the transport may be called by any
};

inline std::string name_of_world(const ::testing::TestParamInfo<World>& info) {
  const World& world = info.param;
  std::string name = std::to_string(world.size) + (world.shared ? "_backend" : "_user");
  if (world.backend != "shm") name += "_" + world.backend;
  for (const int host : world.host_of) name += "_" + std::to_string(host);
  return name;
}

inline auto all_worlds() {
  return ::testing::Values(World{1, false}, World{1, true}, World{2, false}, World{2, true}, World{3, false},
                           World{3, true}, World{4, false}, World{4, true}, World{5, false}, World{5, true},
                           World{8, false}, World{8, true}, World{1, false, "wire"}, World{2, false, "wire"},
                           World{3, false, "wire"}, World{5, false, "wire"}, World{8, false, "wire"},
                           World{2, false, "hier", {0, 1}}, World{3, true, "hier", {0, 0, 1}},
                           World{4, false, "hier", {0, 0, 1, 1}}, World{5, false, "hier", {0, 1, 0, 2, 1}},
                           World{8, true, "hier", {0, 0, 0, 1, 1, 2, 2, 2}});
}

/// Runs `body(communicator, rank, world)` on threads that share one group.
template <typename Body>
void on_ranks(const World& world, Body body) {
  const std::shared_ptr<Store> store = make_memory_store();
  const auto wire = std::make_shared<support::ThreadWire>(world.size);
  support::run_ranks(world.size, [&](int rank) {
    InitOptions options;
    options.timeout = std::chrono::seconds(60);
    if (world.backend == "shm") {
      return body(*make_communicator(store, rank, world.size, options), rank, world.size);
    }
    const Meeting meeting{"world", rank, world.size, Deadline::after(options.timeout), {}};
    auto transport = std::make_shared<support::ThreadTransport>(wire, rank, world.any_thread);
    std::vector<std::string> host_ids;
    for (const int host : world.host_of) host_ids.push_back(std::to_string(host));
    auto backend = world.backend == "wire" ? wire::make_wire_backend(transport, meeting.group, meeting.deadline)
                                           : make_hier_backend(*store, meeting, host_ids, transport);
    body(*Communicator::create(std::move(backend), {.timeout = options.timeout}), rank, world.size);
  });
}
template <typename Body>
void on_ranks(int world, Body body) {
  on_ranks(World{world, false}, body);
}

class CollectiveTest : public ::testing::TestWithParam<World> {
 protected:
  template <typename Body>
  void on_all_ranks(Body body) const {
    on_ranks(GetParam(), body);
  }
  /// Around the boundaries of ranks, cache lines and what travels with an arrival.
  std::vector<std::size_t> small_counts() const {
    const auto p = static_cast<std::size_t>(GetParam().size);
    return {0, 1, p - 1, p, p + 1, 23, 1031};
  }
  /// Beyond the limits of each path: small copies, one staged piece, more pieces than there are slots.
  static std::vector<std::size_t> large_counts() { return {20011, 70001, 400009}; }
  static constexpr std::size_t kLargest = 400009;

  bool shared() const { return GetParam().shared; }
};

/// body(dtype, op) for each pair that is defined.
template <typename Body>
void for_each_reduction(Body body) {
  for (int d = 0; d < kDTypeCount; ++d) {
    for (int o = 0; o < kReduceOpCount; ++o) {
      const auto dtype = static_cast<DType>(d);
      const auto op = static_cast<ReduceOp>(o);
      const bool defined = op == ReduceOp::kPreMulSum ? is_floating(dtype) : is_supported(op, dtype);
      if (defined) body(dtype, op);
    }
  }
}

/// The reduction of one rank: kPreMulSum with its own factor.
inline Reduction reduction_of(ReduceOp op, int rank) {
  return op == ReduceOp::kPreMulSum ? premul_sum(factor_of(rank)) : Reduction(op);
}

/// Large counts differ from small ones in the path, not in the kernel: a few pairs stand for all.
inline bool goes_large(DType dtype, ReduceOp op) {
  return (dtype == DType::kFloat32 && op == ReduceOp::kSum) || (dtype == DType::kFloat16 && op == ReduceOp::kAvg) ||
         (dtype == DType::kFloat32 && op == ReduceOp::kPreMulSum) || (dtype == DType::kUInt8 && op == ReduceOp::kMax);
}

inline std::size_t sum_of(const std::vector<std::size_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::size_t{0});
}

/// Where a rank's part begins.
inline std::size_t begin_of(const std::vector<std::size_t>& counts, std::size_t rank) {
  return std::accumulate(counts.begin(), counts.begin() + static_cast<std::ptrdiff_t>(rank), std::size_t{0});
}

}  // namespace lockstep::testing
