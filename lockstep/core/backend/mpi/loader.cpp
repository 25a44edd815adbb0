#include "lockstep/core/backend/mpi/loader.h"

#include <dlfcn.h>
#include <unistd.h>

#include <mutex>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/log.h"

namespace lockstep::mpi {
namespace {

constexpr const char* kPackages = "on Debian: the package openmpi-bin, or mpich";

std::string file_of(MpiFlavour flavour) {
  return flavour == MpiFlavour::kOpenMpi ? "liblockstep_mpi_openmpi.so" : "liblockstep_mpi_mpich.so";
}

/// What the MPI that is in the process already says of itself; empty where there is none.
std::string loaded_library() {
  using Function = int (*)(char*, int*);
  const auto get_version = reinterpret_cast<Function>(::dlsym(RTLD_DEFAULT, "MPI_Get_library_version"));
  if (get_version == nullptr) return {};
  std::string text(8192, '\0');  // MPICH's MPI_MAX_LIBRARY_VERSION_STRING, the longest
  int length = 0;
  if (get_version(text.data(), &length) != 0 || length <= 0) return {};
  text.resize(static_cast<std::size_t>(length));
  return text.substr(0, text.find_first_of("\n,"));
}

std::string program_folder() {
  std::string path(4096, '\0');
  const ssize_t n = ::readlink("/proc/self/exe", path.data(), path.size());
  if (n <= 0) return {};
  path.resize(static_cast<std::size_t>(n));
  return path.substr(0, path.rfind('/'));
}

/// Null where there is no such file; throws UsageError where there is one that can't be loaded.
///
/// RTLD_GLOBAL: Open MPI's own plugins name no library that their symbols come from, and find them only among those
/// that the whole process sees. MPICH does not mind.
void* try_load(const std::string& place) {
  const bool is_path = place.find('/') != std::string::npos;
  if (is_path && ::access(place.c_str(), F_OK) != 0) return nullptr;
  void* const module = ::dlopen(place.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (module != nullptr) return module;
  const char* const why = ::dlerror();
  const std::string text = why != nullptr ? why : "unknown";
  if (!is_path && text.starts_with(place)) return nullptr;  // of a library that it needs, the text names that one
  throw UsageError(base::cat("the mpi backend: can't load ", place, ": ", text, " (", kPackages, ")"));
}

const Module& load_from(const std::vector<std::string>& places, MpiFlavour flavour) {
  void* handle = nullptr;
  std::string tried;
  for (const std::string& place : places) {
    handle = try_load(place);
    if (handle != nullptr) {
      LS_LOG(kDebug, "mpi: loaded ", place);
      break;
    }
    tried += base::cat(tried.empty() ? "" : ", ", place);
  }
  LS_REQUIRE(handle != nullptr, "the mpi backend: no module for ", name_of(flavour), ": looked for ", tried,
             "; build Lockstep where that MPI is installed (", kPackages,
             ", with its -dev package), or set LOCKSTEP_MPI_MODULE to the module's path");
  const auto function = reinterpret_cast<ModuleFunction>(::dlsym(handle, kModuleSymbol));
  LS_REQUIRE(function != nullptr, "the mpi backend: ", tried, " is no module of Lockstep's: it has no ", kModuleSymbol);
  const Module& module = *function();
  LS_REQUIRE(module.version == kModuleVersion, "the mpi backend: the module for ", name_of(module.flavour),
             " is of another version of Lockstep (", module.version, ", this one needs ", kModuleVersion,
             "): install both from one build");
  return module;
}

}  // namespace

std::string_view name_of(MpiFlavour flavour) noexcept {
  switch (flavour) {
    case MpiFlavour::kAny: return "any MPI";
    case MpiFlavour::kOpenMpi: return "Open MPI";
    case MpiFlavour::kMpich: return "MPICH";
  }
  return "?";
}

MpiFlavour flavour_of_library(std::string_view version) noexcept {
  if (version.find("Open MPI") != std::string_view::npos) return MpiFlavour::kOpenMpi;
  for (const std::string_view name : {"MPICH", "Intel(R) MPI", "MVAPICH"}) {
    if (version.find(name) != std::string_view::npos) return MpiFlavour::kMpich;
  }
  return MpiFlavour::kAny;
}

MpiFlavour detect_flavour() {
  const std::string library = loaded_library();
  const MpiFlavour loaded = flavour_of_library(library);
  if (loaded != MpiFlavour::kAny) return loaded;
  LS_REQUIRE(library.empty(), "the mpi backend: the program holds ", library,
             ", which is neither Open MPI nor MPICH nor of their kind");
  if (environment_string("OMPI_COMM_WORLD_SIZE")) return MpiFlavour::kOpenMpi;
  if (environment_string("PMI_SIZE") || environment_string("PMI_RANK")) return MpiFlavour::kMpich;
  throw UsageError(
      base::cat("the mpi backend: which MPI? The program is linked with none, and no mpirun started it: neither "
                "OMPI_COMM_WORLD_SIZE (Open MPI) nor PMI_SIZE or PMI_RANK (MPICH) is set. Start it with mpirun (",
                kPackages, "), or set LOCKSTEP_MPI_MODULE to the path of the module to use"));
}

std::vector<std::string> module_places(MpiFlavour flavour) {
  if (const auto path = environment_string("LOCKSTEP_MPI_MODULE")) return {*path};
  const std::string file = file_of(flavour);
  return {program_folder() + "/../" LOCKSTEP_LIBDIR "/lockstep/" + file, file, LOCKSTEP_MPI_BUILD_DIR "/" + file,
          LOCKSTEP_MPI_INSTALL_DIR "/" + file};
}

bool has_module() {
  for (const MpiFlavour flavour : {MpiFlavour::kOpenMpi, MpiFlavour::kMpich}) {
    for (const std::string& place : module_places(flavour)) {
      if (::access(place.c_str(), R_OK) == 0) return true;
    }
  }
  return false;
}

const Module& load_module(MpiFlavour flavour) {
  static std::mutex lock;
  static const Module* loaded = nullptr;
  const std::lock_guard<std::mutex> guard(lock);
  if (loaded == nullptr) {
    // A module that is named by its path says itself which MPI it holds.
    const bool named = environment_string("LOCKSTEP_MPI_MODULE").has_value();
    const bool holds_one = !loaded_library().empty();
    if (flavour == MpiFlavour::kAny && (!named || holds_one)) flavour = detect_flavour();
    loaded = &load_from(module_places(flavour), flavour);
  }
  LS_REQUIRE(flavour == MpiFlavour::kAny || flavour == loaded->flavour, "the mpi backend: ", name_of(flavour),
             " is asked for, but this process has ", name_of(loaded->flavour), " (", loaded->library,
             "); one process can hold only one MPI");
  return *loaded;
}

}  // namespace lockstep::mpi
