#pragma once
// What lies in /dev/shm, for tests that nothing of ours stays there.

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>

namespace lockstep::support {

/// The names in /dev/shm, but for those of Open MPI, MPICH, UCX and Python: another test's programs may run meanwhile.
inline std::set<std::string> shared_memory_files() {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    const std::string name = entry.path().filename();
    constexpr std::string_view kOthers[] = {"vader_segment.", "mpich_shar_tmp", "ucx_shm_", "sem.mp-"};
    const bool ours = std::ranges::none_of(kOthers, [&](std::string_view other) { return name.starts_with(other); });
    if (ours) names.insert(name);
  }
  return names;
}

}  // namespace lockstep::support
