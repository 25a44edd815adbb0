#pragma once

#include <chrono>
#include <exception>
#include <memory>

#include <ATen/Parallel.h>

#include "lockstep/core/store/store.h"
#include "lockstep/parallel/group/process_group.h"
#include "tests/support/ranks.h"

namespace lockstep::test {

/// Runs `body(group)` once per rank, each in a thread of its own, over one group called "test". A rank that throws
/// aborts the group, so that the others come back; then its exception is rethrown here.
template <typename Body>
void run_rank_threads(int world_size, const Body& body) {
  const auto store = make_memory_store();
  support::run_ranks(world_size, [&](int rank) {
    at::set_num_threads(1);
    const InitOptions options{.name = "test", .timeout = std::chrono::seconds(30)};
    const auto group = std::make_shared<ProcessGroup>(make_communicator(store, rank, world_size, options));
    try {
      body(group);
    } catch (const std::exception& error) {
      group->abort(error.what());
      throw;
    }
  });
}

}  // namespace lockstep::test
