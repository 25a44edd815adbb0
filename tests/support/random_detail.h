#pragma once
// What random_operations.cpp and random_calls.cpp share.

#include <memory>
#include <string>
#include <vector>

#include "tests/support/exact.h"
#include "tests/support/random_operations.h"

namespace lockstep::support {

using lockstep::testing::Pattern;

enum class RandomKind {
  kBarrier,
  kBroadcast,
  kAllReduce,
  kReduce,
  kReduceScatter,
  kAllGather,
  kGather,
  kScatter,
  kAllToAll,
  kAllGatherUnequal,
  kReduceScatterUnequal,
  kAllToAllUnequal,
  kAllReduceCoalesced,
  kBroadcastCoalesced,
  kReduceScatterCoalesced,
  kAllGatherCoalesced,
  kRing,     // everyone sends to the rank `root` after it and receives from the one before it
  kFromAny,  // everyone sends to root, which receives from any
};

inline constexpr std::size_t kMemoryNbytes = 1u << 20;  ///< of a group's backend memory, for inputs and for outputs

/// A group and, where this rank is in it, its memory.
struct RandomOperations::Member {
  std::shared_ptr<Communicator> group;  // Null where this rank is no member.
  std::vector<int> ranks;               // Of the world.
  bool has_memory = false;
  BackendMemory memory = {};
};

/// One operation, alike on all members.
struct RandomOperations::Call {
  Member* member = nullptr;
  RandomKind kind{};
  DType dtype{};
  ReduceOp op{};
  int root = 0;
  std::size_t count = 0;
  std::size_t first = 0;            // Element of everyone's contribution that this one begins with.
  std::vector<std::size_t> counts;  // Of ranks, of pairs of ranks, of coalesced buffers.
  bool in_place = false;
  bool in_memory = false;  // In the group's backend memory.
  std::string text = {};
  OpOptions options = {};
};

/// An operation in flight on this rank: its buffers, and what they must hold at its end.
struct RandomOperations::Flight {
  struct Part {
    const Pattern* pattern;
    const std::byte* data;
    std::size_t count;
    std::size_t first;
  };
  Member* member = nullptr;
  std::shared_ptr<Communicator> group;
  std::string text;
  bool in_memory = false;
  std::vector<std::byte> heap = {};
  std::byte* input = nullptr;
  std::byte* output = nullptr;
  std::vector<Work> works = {};
  std::vector<Part> parts = {};

  int rank() const { return group->rank(); }
  std::size_t world() const { return static_cast<std::size_t>(group->world_size()); }
  /// Room for `in` and `out` elements.
  void reserve(const Call& call, std::size_t in, std::size_t out) {
    const std::size_t size = size_of(call.dtype);
    in_memory = call.in_memory && std::max(in, out) * size <= kMemoryNbytes;
    if (in_memory) {
      input = static_cast<std::byte*>(member->memory.data);
      output = input + kMemoryNbytes;
    } else {
      heap.resize((in + out) * size + 1);
      input = heap.data();
      output = input + in * size;
    }
  }
  void expect(const Pattern& pattern, const std::byte* data, std::size_t count, std::size_t first) {
    parts.push_back({&pattern, data, count, first});
  }
};

}  // namespace lockstep::support
