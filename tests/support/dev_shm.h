#pragma once
// What lies in /dev/shm, for tests that nothing of ours stays there.

#include <filesystem>
#include <set>
#include <string>

namespace lockstep::support {

/// The names in /dev/shm, but for those of Open MPI and MPICH: a program of somebody else's may run at the same time.
inline std::set<std::string> shared_memory_files() {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("vader_segment.") && !name.starts_with("mpich_shar_tmp")) names.insert(name);
  }
  return names;
}

}  // namespace lockstep::support
