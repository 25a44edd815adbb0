#pragma once

#include <memory>

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/store/store.h"

namespace lockstep {

/// The ranks of one host, through shared memory. Operations progress in whoever calls; no thread is started.
///
/// Memory: of a rank, whatever the message sizes: 10 KiB of control words and 256 bytes for each peer; 2 MiB of
///         staging, a quarter at a time as it is first used; 128 KiB for each peer that it sends messages to. What
///         allocate() hands out comes on top.
/// Needs:  one host, one user, process ids visible to each other (/proc). Nothing appears in /dev/shm.
/// Peers:  an ended process is noticed within 100 ms of a wait, a stopped one at the deadline.
///
/// Collective construction over keys of `store`, which must be fresh (one prefix a group).
std::unique_ptr<Backend> make_shm_backend(Store& store, const Meeting& meeting);

}  // namespace lockstep
