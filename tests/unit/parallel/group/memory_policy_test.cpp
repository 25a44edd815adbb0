#include "lockstep/parallel/group/memory_policy.h"

#include <sys/resource.h>

#include <cstdlib>
#include <cstring>

#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "tests/unit/core/base/scoped_environment.h"

namespace lockstep {
namespace {

TEST(MemoryPolicy, LeavesTheChoiceToTheUser) {
  {
    ScopedEnvironment environment;
    environment.set("LOCKSTEP_MALLOC", "default");
    EXPECT_FALSE(keep_freed_memory());
  }
  {
    ScopedEnvironment environment;
    environment.set("MALLOC_TRIM_THRESHOLD_", "131072");
    EXPECT_FALSE(keep_freed_memory());
  }
  {
    ScopedEnvironment environment;
    environment.set("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072");
    EXPECT_FALSE(keep_freed_memory());
  }
}

TEST(MemoryPolicy, RefusesAnotherWord) {
  ScopedEnvironment environment;
  environment.set("LOCKSTEP_MALLOC", "fast");
  EXPECT_THROW(keep_freed_memory(), UsageError);
}

// A sanitizer brings an allocator of its own.
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
long page_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

/// A training step's habit: a large block is taken, filled and freed.
void use_block() {
  constexpr std::size_t kBytes = 48u << 20;
  void* const block = std::malloc(kBytes);
  ASSERT_NE(block, nullptr);
  std::memset(block, 1, kBytes);
  __asm__ volatile("" : : "r"(block) : "memory");  // The compiler may not drop what nobody reads.
  std::free(block);
}

TEST(MemoryPolicy, FreedBlocksCostNoPageFaultsTheSecondTime) {
  const ScopedEnvironment environment;
  ASSERT_TRUE(keep_freed_memory());
  use_block();
  const long before = page_faults();
  for (int i = 0; i < 4; ++i) use_block();
  EXPECT_LT(page_faults() - before, 1000);  // 4 x 12,288 when each block comes from the kernel again
}
#endif

}  // namespace
}  // namespace lockstep
