#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace lockstep {

/// The MPI libraries that Lockstep knows by their binary interfaces, which differ: one program can hold only one.
enum class MpiFlavour : std::uint8_t {
  kAny,  ///< the one that the process holds; else the one whose mpirun started it
  kOpenMpi,
  kMpich,  ///< and what has its binary interface: Intel MPI, MVAPICH, Cray MPICH
};

/// A program's own MPI_Comm, as a value that needs no <mpi.h>. Made by mpi_handle() of lockstep/mpi.h.
struct MpiHandle {
  std::array<std::byte, 8> communicator = {};  ///< the MPI_Comm's own bytes
  std::size_t nbytes = 0;                      ///< sizeof(MPI_Comm); 0: MPI_COMM_WORLD
  MpiFlavour flavour = MpiFlavour::kAny;
};

}  // namespace lockstep
