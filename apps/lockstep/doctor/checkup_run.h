#pragma once

#include "apps/lockstep/doctor/checkup.h"
#include "lockstep/core/comm/init.h"

namespace lockstep::doctor {

/// Collective: every rank of the job calls it. Collects what each rank is and measures what is between them: clocks
/// against rank 0's, the store, and the links of plan_pairs(), all with the communicator's own messages. The result is
/// complete on rank 0; elsewhere it has no ranks and no links. Throws what the communicator and the store throw.
Checkup run_checkup(const Job& job);

}  // namespace lockstep::doctor
