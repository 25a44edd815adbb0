#pragma once
// Which MPI, and where its module is. Internal: never included from a public header.

#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/backend/mpi/module.h"

namespace lockstep::mpi {

/// "Open MPI", "MPICH".
std::string_view name_of(MpiFlavour flavour) noexcept;

/// The flavour that MPI_Get_library_version() speaks of; kAny where the text is of neither.
MpiFlavour flavour_of_library(std::string_view version) noexcept;

/// The flavour of the MPI that the process holds; else of the mpirun that started it, as its variables say.
/// Throws UsageError, which names what was looked for.
MpiFlavour detect_flavour();

/// Where a flavour's module may be, in this order: beside the program (../lib/lockstep), by the dynamic linker (the
/// program's run path, LD_LIBRARY_PATH), in the build folder, in the install folder. LOCKSTEP_MPI_MODULE is a path that
/// stands for all of them.
std::vector<std::string> module_places(MpiFlavour flavour);

/// True where a module lies in one of its places, for any flavour. Loads nothing.
bool has_module();

/// The module for `flavour`; loaded at the first call, and never unloaded: neither MPI survives that. Throws UsageError
/// where there is none, or the process holds another MPI.
const Module& load_module(MpiFlavour flavour);

}  // namespace lockstep::mpi
