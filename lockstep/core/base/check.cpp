#include "lockstep/core/base/check.h"

namespace lockstep::base {

void check_failed(const char* file, int line, const char* condition, const std::string& message) {
  throw InternalError(cat(file, ":", line, ": internal check failed: ", condition, message.empty() ? "" : ": ", message,
                          " (this is a bug in lockstep)"));
}

}  // namespace lockstep::base
