#pragma once

#include <memory>
#include <string>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/store/store.h"

namespace lockstep {

/// For programs whose ranks can already tell each other a line of text, by MPI say: rank 0 serves a store and tells the
/// others where it is.
struct JobStore {
  std::shared_ptr<Store> store;  ///< serves as long as it lives
  std::string where;             ///< for connect_job_store(): address, port and secret; for nobody else's eyes
};

/// `address`: an interface of this host that the other ranks reach; 127.0.0.1 where all are on this host. Throws
/// SystemError, UsageError.
JobStore serve_job_store(const std::string& address);
/// The same with a port (0: a free one) and a secret of the caller's.
JobStore host_store(const std::string& address, int port, const std::string& token);
/// Throws TimeoutError, UsageError.
std::shared_ptr<Store> connect_job_store(const std::string& where, Deadline deadline);

}  // namespace lockstep
