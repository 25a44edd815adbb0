#pragma once
// Bytes from rank to rank by MPI. Internal: never included from a public header.

#include <memory>
#include <vector>

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/backend/mpi/handle.h"
#include "lockstep/core/backend/wire/transport.h"

namespace lockstep::mpi {

struct MpiOptions {
  MpiHandle parent = {};  ///< a program's own communicator; by default MPI_COMM_WORLD
  /// Ranks of `parent` that make up the group, in the order of their new ranks; empty: all of them.
  std::vector<int> members = {};
};

/// Collective over the group: a transport on a duplicate of `options.parent`, so that its messages never meet the
/// program's own. The MPI itself is in a module that is loaded here (loader.h).
///
/// MPI is initialised if the program has not, and then finalised when the process exits with code 0 and the last
/// transport is gone. What the program initialised stays the program's: its MPI_Finalize() ends every transport.
///
/// Waits for the other ranks: of all of a communicator until `meeting.deadline`; of `members`, without a bound (MPI has
/// no other way): let them meet in a store before. The same holds for initialising MPI, which waits for every process
/// that mpirun started. The ranks make their groups of one `parent` in the same order; first the group of all, where
/// there is one: by its duplicate the others form. Without it they form on `parent`, where with Open MPI a receive of
/// the program's own that takes any tag from any rank would take their messages.
///
/// Thread safety: as MPI was initialised; see Transport::any_thread(). A transfer goes before its transport.
/// Lifetime: a transfer that is destroyed before it is complete takes its receive back. What MPI can't take back (a
///           send that no receive has met, a receive whose data is on its way) the transport waits for when it is
///           destroyed, kDrain at most; after that MPI may still read or write the buffer while the peer lives.
/// Throws UsageError (no MPI, another MPI, another rank or size than the meeting's), TimeoutError, SystemError.
std::unique_ptr<wire::Transport> make_mpi_transport(const Meeting& meeting, const MpiOptions& options = {});

}  // namespace lockstep::mpi
