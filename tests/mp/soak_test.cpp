// Random operations on random groups for as long as asked, at four processes: every result is checked, and nothing
// grows or is left behind: memory, mappings, file descriptors.
//
// LOCKSTEP_SOAK_SECONDS: how long (default 6). LOCKSTEP_SOAK_SEED: which run (default 1).

#include <dirent.h>
#include <malloc.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/comm/init.h"
#include "tests/support/dev_shm.h"
#include "tests/support/processes.h"
#include "tests/support/random_operations.h"

namespace lockstep {
namespace {

using support::RandomOperations;

constexpr int kRanks = 4;

// Sanitizers keep freed memory for a while, and map what they like.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kCountsMemory = false;
#else
constexpr bool kCountsMemory = true;
#endif

double number_from_environment(const char* name, double otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::stod(text);
}

/// What this process holds.
struct Holdings {
  long resident_kb = 0;
  std::size_t heap_nbytes = 0;  ///< allocated and not freed
  int mappings = 0;
  int shared_mappings = 0;  ///< of Lockstep's segments
  int descriptors = 0;

  static Holdings now() {
    Holdings held;
    ::malloc_trim(0);  // What the heap keeps for later is no leak.
    held.heap_nbytes = ::mallinfo2().uordblks + ::mallinfo2().hblkhd;
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("VmRSS:")) held.resident_kb = std::stol(line.substr(6));
    }
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line); ++held.mappings) {
      if (line.find("memfd:lockstep") != std::string::npos) ++held.shared_mappings;
    }
    DIR* const directory = ::opendir("/proc/self/fd");
    while (::readdir(directory) != nullptr) ++held.descriptors;
    ::closedir(directory);
    return held;
  }
};

std::ostream& operator<<(std::ostream& out, const Holdings& held) {
  return out << held.resident_kb << " kB resident, " << held.heap_nbytes / 1024 << " kB of the heap, " << held.mappings
             << " mappings (" << held.shared_mappings << " of segments), " << held.descriptors << " descriptors";
}

int complain(const std::string& what, const Holdings& before, const Holdings& after) {
  std::cerr << what << ": before " << before << "; after " << after << std::endl;
  return 1;
}

/// arguments: seed, seconds of warm-up, seconds.
LOCKSTEP_WORKER(random_operations_for_a_while) {
  const Holdings at_start = Holdings::now();
  int failed = 0;
  {
    InitOptions options;
    options.timeout = std::chrono::seconds(60);
    Job job = init_from_environment(options);
    const auto run_for = [&](unsigned seed, double duration) {
      support::RandomOptions what;
      auto operations = std::make_unique<RandomOperations>(job.communicator, seed, what);
      const Deadline end =
          Deadline::after(std::chrono::duration_cast<Duration>(std::chrono::duration<double>(duration)));
      // All ranks must stop at the same step: rank 0 says when.
      for (std::uint8_t stop = 0; stop == 0;) {
        for (int k = 0; k < 100; ++k) operations->step();
        stop = end.passed() ? 1 : 0;
        job.communicator->broadcast(&stop, 1, DType::kUInt8, 0);
      }
      operations->drain();
      return operations->steps();
    };
    const auto seed = static_cast<unsigned>(std::stoul(arguments[0]));
    run_for(seed, std::stod(arguments[1]));
    const Holdings warm = Holdings::now();
    const std::uint64_t steps = run_for(seed + 1, std::stod(arguments[2]));
    const Holdings done = Holdings::now();
    std::cout << "rank " << job.communicator->rank() << ": " << steps << " operations; warm " << warm << "; at the end "
              << done << std::endl;
    // The groups are gone again: what is left is the world's.
    if (done.descriptors != warm.descriptors) failed |= complain("descriptors", warm, done);
    if (done.shared_mappings > warm.shared_mappings) failed |= complain("segments", warm, done);
    if (kCountsMemory && done.mappings > warm.mappings + 30) failed |= complain("mappings", warm, done);
    // The world's segment may get a few more of its pages; a leak of a few bytes an operation would show.
    if (kCountsMemory && done.heap_nbytes > warm.heap_nbytes + 256 * 1024) failed |= complain("heap", warm, done);
    if (kCountsMemory && done.resident_kb > warm.resident_kb + 8 * 1024) failed |= complain("memory", warm, done);
  }
  const Holdings at_end = Holdings::now();
  if (at_end.descriptors != at_start.descriptors) failed |= complain("descriptors", at_start, at_end);
  if (at_end.shared_mappings != 0) failed |= complain("segments", at_start, at_end);
  return failed;
}

TEST(Soak, RandomOperationsOnRandomGroupsLeakNothing) {
  const double duration = number_from_environment("LOCKSTEP_SOAK_SECONDS", 6);
  const auto seed = static_cast<unsigned>(number_from_environment("LOCKSTEP_SOAK_SEED", 1));
  SCOPED_TRACE("LOCKSTEP_SOAK_SEED=" + std::to_string(seed));
  const auto before = support::shared_memory_files();
  support::ProcessOptions options;
  options.deadline = std::chrono::seconds(static_cast<long>(duration) + 90);
  const auto result = support::run_processes(
      kRanks, "random_operations_for_a_while",
      {std::to_string(seed), std::to_string(std::min(duration / 3, 20.0)), std::to_string(duration)}, options);
  EXPECT_TRUE(result.ok()) << result;
  for (const auto& end : result.ranks) std::cout << end.out;
  EXPECT_EQ(support::shared_memory_files(), before);
}

}  // namespace
}  // namespace lockstep
