#include "lockstep/core/io/shared_memory.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"

namespace lockstep::io {
namespace {

/// Offsets and sizes around the borders of huge pages; in pages where there are no huge ones.
std::vector<std::pair<std::size_t, std::size_t>> ranges() {
  const std::size_t page = page_size();
  const std::size_t block = std::max(huge_page_size(), 8 * page);
  return {{0, page},    {0, block - page},     {0, block},         {0, block + page},        {page, block},
          {page, 1},    {page, 2 * block},     {block, 2 * block}, {block, 2 * block + 100}, {block - page, page},
          {page, page}, {3 * block, 3 * page}, {block, page - 1}};
}

bool is_zero(const std::byte* data, std::size_t nbytes) {
  return std::all_of(data, data + nbytes, [](std::byte each) { return each == std::byte{0}; });
}

TEST(SharedMemory, WhatIsReservedIsZeroAndOthersSeeWhatIsWritten) {
  for (const auto& [offset, nbytes] : ranges()) {
    const SharedMemory memory = SharedMemory::create("test");
    memory.reserve(offset, nbytes);
    const auto mapped = memory.map(offset, nbytes);
    ASSERT_TRUE(is_zero(mapped.get(), nbytes)) << offset << " " << nbytes;
    mapped.get()[0] = std::byte{1};
    mapped.get()[nbytes - 1] = std::byte{2};
    // Another range of the same file is another mapping of the same bytes.
    memory.reserve(0, offset + nbytes);
    const auto whole = memory.map(0, offset + nbytes + 1);
    EXPECT_EQ(whole.get()[offset + nbytes - 1], std::byte{2});
    EXPECT_EQ(whole.get()[offset], nbytes > 1 ? std::byte{1} : std::byte{2});
    EXPECT_TRUE(is_zero(whole.get(), offset));
  }
}

TEST(SharedMemory, ReservingAgainKeepsWhatIsThere) {
  for (const auto& [offset, nbytes] : ranges()) {
    const SharedMemory memory = SharedMemory::create("test");
    memory.reserve(offset, nbytes);
    const auto mapped = memory.map(offset, nbytes);
    std::fill_n(mapped.get(), nbytes, std::byte{7});
    memory.reserve(0, offset + nbytes);
    EXPECT_EQ(std::count(mapped.get(), mapped.get() + nbytes, std::byte{7}), static_cast<std::ptrdiff_t>(nbytes));
  }
}

TEST(SharedMemory, WhatIsReleasedIsZeroAndItsNeighboursStay) {
  for (const auto& [offset, nbytes] : ranges()) {
    const SharedMemory memory = SharedMemory::create("test");
    const std::size_t end = offset + (nbytes + page_size() - 1) / page_size() * page_size();
    memory.reserve(0, end + page_size());
    const auto mapped = memory.map(0, end + page_size());
    std::fill_n(mapped.get(), end + page_size(), std::byte{7});
    memory.release(offset, end - offset);
    EXPECT_TRUE(is_zero(mapped.get() + offset, end - offset));
    EXPECT_EQ(std::count(mapped.get(), mapped.get() + offset, std::byte{7}), static_cast<std::ptrdiff_t>(offset));
    EXPECT_EQ(mapped.get()[end], std::byte{7});
  }
}

// Else the kernel maps each of their small pages by itself, and nothing was gained.
TEST(SharedMemory, MapsWhereHugePagesStayWhole) {
  const std::size_t block = huge_page_size();
  if (block == 0) GTEST_SKIP() << "this kernel has no huge pages of shared memory";
  const SharedMemory memory = SharedMemory::create("test");
  for (const std::size_t offset : {std::size_t{0}, page_size(), block - page_size(), block, 3 * block + page_size()}) {
    memory.reserve(offset, block);
    const auto mapped = memory.map(offset, block);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(mapped.get()) % block, offset % block) << offset;
  }
}

TEST(SharedMemory, HandlesThatDoNotFitAreRefused) {
  const SharedMemory memory = SharedMemory::create("test");
  memory.reserve(0, page_size());
  const std::string handle = memory.handle();
  const SharedMemory other = SharedMemory::attach(handle);
  memory.map(0, page_size()).get()[5] = std::byte{9};
  EXPECT_EQ(other.map(0, page_size()).get()[5], std::byte{9});
  EXPECT_THROW(SharedMemory::attach(""), UsageError);
  EXPECT_THROW(SharedMemory::attach("nonsense"), UsageError);
  // A descriptor that nobody has.
  const std::string pid = handle.substr(0, handle.find(' '));
  std::string rest = handle.substr(handle.find(' ') + 1);
  rest = rest.substr(rest.find(' '));
  EXPECT_THROW(SharedMemory::attach(pid + " 1000000" + rest), SystemError);
}

}  // namespace
}  // namespace lockstep::io
