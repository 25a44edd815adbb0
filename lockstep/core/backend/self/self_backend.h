#pragma once

#include <memory>

#include "lockstep/core/backend/backend.h"

namespace lockstep {

/// A world of one: every operation is a copy at most, complete when it starts.
std::unique_ptr<Backend> make_self_backend();

}  // namespace lockstep
