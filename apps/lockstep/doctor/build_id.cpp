#include "apps/lockstep/doctor/build_id.h"

#include "lockstep/core/base/check.h"
#include "lockstep/core/comm/init.h"

namespace lockstep::doctor {

std::string build_id() {
  std::string backends;
  for (const std::string_view name : built_in_backends()) backends += base::cat(backends.empty() ? "" : " ", name);
  const std::string state = LOCKSTEP_GIT_STATE;
  return base::cat("lockstep " LOCKSTEP_VERSION, state.empty() ? "" : " (" + state + ")",
                   ", " LOCKSTEP_COMPILER ", " LOCKSTEP_BUILD_TYPE ", backends ", backends);
}

}  // namespace lockstep::doctor
