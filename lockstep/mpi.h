#pragma once

/// For programs that own MPI: the bridge from their communicators to Lockstep.
///
/// It is the one header that needs an MPI, the program's own; Lockstep itself loads the one that the program is linked
/// with when it is used (docs/errors.md says what MPI can and can't do).

#include <mpi.h>

#include <array>
#include <cstring>
#include <memory>
#include <string>

#include "lockstep/core/backend/mpi/handle.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/error.h"
#include "lockstep/core/comm/communicator.h"
#include "lockstep/core/comm/init.h"
#include "lockstep/core/comm/job_store.h"

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

/// Collective over `communicator`: Lockstep's communicator of its ranks, in their order. Ranks of one host use shared
/// memory, the others MPI, on a duplicate, so that the program's own messages never meet Lockstep's. MPI must have been
/// initialised; it stays the program's, and everything made here must be gone before MPI_Finalize().
///
/// Subgroups meet in a store that rank 0 serves: on 127.0.0.1 where all ranks share its host, else at MASTER_ADDR, else
/// at the name of its host.
/// Throws UsageError, TimeoutError, SystemError; where rank 0 can't serve, on all ranks.
inline std::shared_ptr<Communicator> make_mpi_communicator(MPI_Comm communicator, InitOptions options = {}) {
  int rank = 0;
  int size = 1;
  MPI_Comm_rank(communicator, &rank);
  MPI_Comm_size(communicator, &size);
  MPI_Comm here = MPI_COMM_NULL;
  MPI_Comm_split_type(communicator, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here);
  int size_here = 1;
  MPI_Comm_size(here, &size_here);
  MPI_Comm_free(&here);
  int smallest = 0;
  MPI_Allreduce(&size_here, &smallest, 1, MPI_INT, MPI_MIN, communicator);

  std::array<char, 1024> where{};
  JobStore served;
  std::string problem;
  if (rank == 0) {
    try {
      char name[MPI_MAX_PROCESSOR_NAME] = {};
      int length = 0;
      MPI_Get_processor_name(name, &length);
      const std::string reachable = environment_string("MASTER_ADDR").value_or(name);
      served = serve_job_store(smallest == size ? "127.0.0.1" : reachable);
      served.where.copy(where.data(), where.size() - 1);
      options.network.route_to = smallest == size ? "" : reachable;
    } catch (const Error& error) {
      problem = error.what();
    }
  }
  MPI_Bcast(where.data(), static_cast<int>(where.size()), MPI_CHAR, 0, communicator);
  if (where[0] == '\0') {
    throw UsageError("make_mpi_communicator: rank 0 can't serve the store that subgroups meet in: " + problem);
  }
  const auto store = rank == 0 ? served.store : connect_job_store(where.data(), Deadline::after(options.init_timeout));
  options.network.mpi = mpi_handle(communicator);
  options.network.engine = "mpi";
  return make_communicator(store, rank, size, options);
}

}  // namespace lockstep
