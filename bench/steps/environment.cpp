#include "bench/steps/environment.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "lockstep/core/base/cpus.h"
#include "lockstep/core/launch/worker_plan.h"

namespace lockstep::bench {
namespace {

constexpr const char* kVariables[] = {"OMP_NUM_THREADS",  "OPENBLAS_CORETYPE",      "OPENBLAS_NUM_THREADS",
                                      "OPENBLAS_L2_SIZE", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_",
                                      "LOCKSTEP_MALLOC"};

/// " (SkylakeX)": which of its kernels OpenBLAS has chosen; an older release than the CPU may choose badly.
std::string chosen_kernels(const std::filesystem::path& library) {
  void* const handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_NOLOAD);
  if (handle == nullptr) return "";
  const auto name = reinterpret_cast<const char* (*)()>(::dlsym(handle, "openblas_get_corename"));
  return name == nullptr ? "" : std::string(" (") + name() + ")";
}

/// Folder and name of the library that has the products: distributions put each build of a BLAS in its own folder.
std::string blas_library() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const std::size_t begin = line.find('/');
    if (begin == std::string::npos) continue;
    const std::filesystem::path path = line.substr(begin);
    if (path.filename().string().find("blas") != std::string::npos) {
      return (path.parent_path().filename() / path.filename()).string() + chosen_kernels(path);
    }
  }
  return "unknown";
}

}  // namespace

nlohmann::ordered_json describe_environment(bool freed_memory_is_kept) {
  nlohmann::ordered_json found = {{"freed_memory", freed_memory_is_kept ? "kept" : "as the C library does"},
                                  {"cpus_of_rank_0", launch::format_cpus(base::read_cpu_budget().cpus)},
                                  {"blas", blas_library()}};
  for (const char* name : kVariables) {
    if (const char* value = std::getenv(name)) found[name] = value;
  }
  return found;
}

}  // namespace lockstep::bench
