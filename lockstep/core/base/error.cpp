#include "lockstep/core/base/error.h"

#include <cstring>

namespace lockstep {

SystemError::SystemError(const std::string& what, int errno_value)
    : Error(what + ": " + std::strerror(errno_value)), code_(errno_value) {}

}  // namespace lockstep
