#include "lockstep/core/base/partition.h"

#include <algorithm>
#include <cstdint>

#include <gtest/gtest.h>

namespace lockstep {
namespace {

// Every property of the docstring, for every small count, number of parts and granularity.
TEST(Partition, CoversEverythingOnceInOrderAndInBalance) {
  for (const std::size_t granularity : {1, 4, 16}) {
    for (std::size_t count = 0; count <= 300; ++count) {
      for (std::size_t parts = 1; parts <= 17; ++parts) {
        SCOPED_TRACE(testing::Message() << count << " elements, " << parts << " parts of " << granularity);
        std::size_t next = 0;
        std::size_t least = SIZE_MAX;
        std::size_t most = 0;
        for (std::size_t index = 0; index < parts; ++index) {
          const Range chunk = partition(count, parts, index, granularity);
          ASSERT_EQ(chunk.begin, next) << "chunk " << index << " leaves a hole or overlaps";
          ASSERT_LE(chunk.begin, chunk.end);
          if (!chunk.empty()) {
            ASSERT_EQ(chunk.begin % granularity, 0U);
          }
          const std::size_t granules = (chunk.size() + granularity - 1) / granularity;
          least = std::min(least, granules);
          most = std::max(most, granules);
          next = chunk.end;
        }
        ASSERT_EQ(next, count);
        ASSERT_LE(most - least, 1U);
      }
    }
  }
}

TEST(Partition, OnlyTheLastNonEmptyChunkIsCutShort) {
  for (std::size_t count = 0; count <= 300; ++count) {
    for (std::size_t parts = 1; parts <= 17; ++parts) {
      bool cut = false;
      for (std::size_t index = 0; index < parts; ++index) {
        const Range chunk = partition(count, parts, index, 16);
        ASSERT_FALSE(cut && !chunk.empty()) << count << " elements, " << parts << " parts, chunk " << index;
        cut = cut || chunk.size() % 16 != 0;
      }
    }
  }
}

TEST(Partition, IsAConstantExpressionAndExact) {
  static_assert(partition(10, 3, 0) == Range{0, 4});
  static_assert(partition(10, 3, 1) == Range{4, 7});
  static_assert(partition(10, 3, 2) == Range{7, 10});
  static_assert(partition(10, 3, 0, 4) == Range{0, 4});
  static_assert(partition(10, 3, 2, 4) == Range{8, 10});
  static_assert(partition(0, 5, 4, 16).empty());
}

}  // namespace
}  // namespace lockstep
