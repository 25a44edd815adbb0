#pragma once

/// For programs that own MPI: the bridge from their communicators to Lockstep.
///
/// It is the one header that needs an MPI, the program's own; Lockstep itself loads the one that the program is linked
/// with when it is used (docs/errors.md says what MPI can and can't do).

#include <mpi.h>

#include <cstring>

#include "lockstep/core/backend/mpi/handle.h"

namespace lockstep {

#if defined(OPEN_MPI)
inline constexpr MpiFlavour kProgramsMpi = MpiFlavour::kOpenMpi;
#elif defined(MPICH_VERSION) || defined(MPICH) || defined(MVAPICH2_VERSION) || defined(I_MPI_VERSION)
inline constexpr MpiFlavour kProgramsMpi = MpiFlavour::kMpich;
#else
#error "lockstep/mpi.h: this mpi.h is neither Open MPI's nor MPICH's, nor of their kind"
#endif

/// `communicator` as a value that needs no <mpi.h>. It owns nothing: the communicator must live until what is made from
/// it has been made.
inline MpiHandle mpi_handle(MPI_Comm communicator) noexcept {
  MpiHandle handle;
  static_assert(sizeof communicator <= sizeof handle.communicator);
  std::memcpy(handle.communicator.data(), &communicator, sizeof communicator);
  handle.nbytes = sizeof communicator;
  handle.flavour = kProgramsMpi;
  return handle;
}

}  // namespace lockstep
