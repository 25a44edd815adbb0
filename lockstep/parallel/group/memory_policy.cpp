#include "lockstep/parallel/group/memory_policy.h"

#include <malloc.h>

#include <optional>
#include <string>
#include <string_view>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/log.h"

namespace lockstep {
namespace {

#ifdef __GLIBC__
// glibc's own switches: whoever set one has a policy already.
std::optional<std::string> variable_set_by_user() {
  for (const std::string_view name :
       {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_"}) {
    if (environment_string(name)) return std::string(name);
  }
  const auto tunables = environment_string("GLIBC_TUNABLES");
  if (tunables && tunables->find("glibc.malloc.") != std::string::npos) return "GLIBC_TUNABLES";
  return std::nullopt;
}

bool set_policy() {
  constexpr int kMmapThreshold = 1 << 30;        // blocks below this come from the heap, where they can be kept
  constexpr int kTrimThreshold = 2'000'000'000;  // the heap's free end is given back only above this
  constexpr int kTopPad = 64 << 20;              // the heap grows in steps of this
  constexpr int kOldestLimit = 32 << 20;         // glibc before 2.35 accepts no larger mmap threshold
  const bool threshold = mallopt(M_MMAP_THRESHOLD, kMmapThreshold) == 1 || mallopt(M_MMAP_THRESHOLD, kOldestLimit) == 1;
  return threshold && mallopt(M_TRIM_THRESHOLD, kTrimThreshold) == 1 && mallopt(M_TOP_PAD, kTopPad) == 1;
}
#endif

}  // namespace

bool keep_freed_memory() {
  const std::string choice = environment_string("LOCKSTEP_MALLOC").value_or("auto");
  LS_REQUIRE(choice == "auto" || choice == "default", "environment variable LOCKSTEP_MALLOC='", choice,
             "': expected auto or default");
  if (choice == "default") return false;
#ifdef __GLIBC__
  if (const auto name = variable_set_by_user()) {
    LS_LOG(kInfo, "freed memory: left to the C library, because ", *name, " is set");
    return false;
  }
  static const bool in_force = [] {
    const bool set = set_policy();
    if (set) LS_LOG(kInfo, "freed memory stays with the process; LOCKSTEP_MALLOC=default leaves it to the C library");
    return set;
  }();
  return in_force;
#else
  return false;
#endif
}

}  // namespace lockstep
