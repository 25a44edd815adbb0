#pragma once
// Which backend a group gets, from where its ranks are and what was built in: pure. Internal.

#include <span>
#include <string>

namespace lockstep {

/// What this build and this process could use between hosts.
struct Engines {
  bool gloo = false;
  bool mpi = false;  ///< the module for an MPI is there
  bool launched_by_mpi = false;
};

struct BackendChoice {
  std::string backend;  ///< self, shm, gloo, mpi, hier
  std::string engine;   ///< between hosts: gloo, mpi; empty: none
  std::string reason;   ///< for people: "4 ranks on 2 hosts: shared memory inside, gloo between"
};

/// `asked`: auto or a backend's name; `engine`: auto, gloo or mpi; `host_ids`: one a rank, in rank order (of a backend
/// that was asked for by name and needs none: empty).
///
/// auto: one rank: self. One host: shm. Several hosts: hier where some host has several ranks, else the engine alone.
/// The engine: gloo where it is built in, else mpi where mpirun started the job.
/// Throws UsageError for a name that is none, and where what is needed was not built in; it says what to install.
BackendChoice choose_backend(const std::string& asked, const std::string& engine, int world_size,
                             std::span<const std::string> host_ids, const Engines& engines);

}  // namespace lockstep
