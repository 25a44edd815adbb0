#pragma once
// The stages of the two families of operations; steps.cpp picks.

#include <cstdint>

#include "lockstep/core/backend/shm/operation.h"

namespace lockstep::shm {

// all_reduce, reduce, reduce_scatter (reductions.cpp)
void post_reduction(const Call& call);
void work_reduction(const Call& call);
void finish_reduction(const Call& call);

// broadcast, all_gather, gather, scatter, all_to_all (exchanges.cpp)
void post_exchange(const Call& call);
void work_exchange(const Call& call);
/// As close_plan() in steps.h, at the first tick of `operation`.
void close_exchange(const Call& call, Operation& operation);

}  // namespace lockstep::shm
