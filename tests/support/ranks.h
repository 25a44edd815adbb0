#pragma once
// Ranks as threads of the test.

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "lockstep/core/base/deadline.h"

namespace lockstep::support {

/// Calls `fn(rank)` on `n` threads at once and returns when all have. Rethrows the exception that was thrown first,
/// after naming its rank on stderr. When some rank has not returned by the deadline the process aborts and says which:
/// a thread that hangs cannot be ended, and the test must not hang with it.
template <typename Function>
void run_ranks(int n, const Function& fn, Duration deadline = std::chrono::seconds(60)) {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<bool> returned(static_cast<std::size_t>(n), false);
  int left = n;
  std::exception_ptr first;
  const auto run = [&](int rank) {
    std::exception_ptr mine;
    std::string text;
    try {
      fn(rank);
    } catch (const std::exception& error) {
      mine = std::current_exception();
      text = error.what();
    } catch (...) {
      mine = std::current_exception();
    }
    const std::lock_guard lock(mutex);
    if (mine && !first) {
      first = mine;
      std::fprintf(stderr, "run_ranks: rank %d of %d threw first: %s\n", rank, n, text.c_str());
    }
    returned[static_cast<std::size_t>(rank)] = true;
    --left;
    changed.notify_all();
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < n; ++rank) threads.emplace_back(run, rank);
  {
    std::unique_lock lock(mutex);
    if (!changed.wait_for(lock, deadline, [&] { return left == 0; })) {
      for (int rank = 0; rank < n; ++rank) {
        if (returned[static_cast<std::size_t>(rank)]) continue;
        std::fprintf(stderr, "run_ranks: rank %d of %d has not returned after %.1f s\n", rank, n, seconds(deadline));
      }
      std::abort();
    }
  }
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace lockstep::support
