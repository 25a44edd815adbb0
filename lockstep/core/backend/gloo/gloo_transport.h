#pragma once
// TCP between hosts by libgloo. Internal: never included from a public header.

#include <memory>
#include <string>
#include <vector>

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/backend/wire/transport.h"
#include "lockstep/core/store/store.h"

namespace lockstep {

struct GlooOptions {
  std::string interface = {};   ///< network interface by name; empty: the one that routes to `route_to`
  std::string route_to = {};    ///< a host that all ranks reach (the store's); empty: this host alone, by loopback
  std::vector<int> peers = {};  ///< ranks to connect with, symmetric among ranks; empty: all others
};

/// The ranks of several hosts, through libgloo's TCP connections: one a pair of ranks. any_thread() is true.
///
/// Threads:  one a process and local address, which all groups share; it ends with the last of them.
/// SIGPIPE:  libgloo writes to connections that a peer may have closed: the signal is ignored from the first transport
///           on, in the whole process, unless the program has set its disposition itself.
/// Overflow: a message that is longer than its receive has room closes the connection, on both sides.
/// Gone:     a peer whose process or connection ended; a host that lost its power is seen when TCP gives up on it.
/// Dropping: a Transfer that is dropped while it moves goes on: its memory stays until the transport is destroyed.
/// Ends:     the destructor waits up to 2 s until what was sent is acknowledged by the peers' hosts.
/// Trust:    connections are neither encrypted nor authenticated, beyond a greeting that tells strangers apart.
///
/// Collective construction over keys of `store`, which must be fresh (one prefix a group); they are erased. Returns
/// when every peer has greeted this rank. Throws UsageError (an interface or host that doesn't exist, an address that
/// peers can't reach, peers that disagree), TimeoutError that names the ranks that did not come, PeerError for one that
/// refused or left, SystemError.
std::unique_ptr<wire::Transport> make_gloo_transport(Store& store, const Meeting& meeting, const GlooOptions& options);

}  // namespace lockstep
