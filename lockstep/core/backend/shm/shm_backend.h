#pragma once

#include <memory>
#include <string>

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/store/store.h"

namespace lockstep {

/// The ranks of one host, through shared memory. Operations progress in whoever calls; no thread is started.
///
/// Memory: 2 MiB of staging and 10 KiB of control words a rank, whatever the message size; and what allocate() hands
///         out.
/// Needs:  one host, one user, process ids visible to each other (/proc). Nothing appears in /dev/shm.
/// Peers:  an ended process is noticed within 100 ms of a wait, a stopped one at the deadline.
///
/// Collective construction over keys of `store`, which must be fresh (one prefix a group).
std::unique_ptr<Backend> make_shm_backend(Store& store, const std::string& group, int rank, int world_size,
                                          Deadline deadline);

}  // namespace lockstep
