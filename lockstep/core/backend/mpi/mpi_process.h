#pragma once
// MPI in this process, as one module sees it: who initialised it, who finalises it, and the communicators that wait to
// be freed. Part of a module; included by nothing else.
//
// A communicator may be freed here only when no peer sends on it any more: Open MPI uses its number again at once, and
// a late message would then meet a stranger's receive. So a rank that ends a transport tells every peer so on it, and
// frees the communicator when all have told it too, which is looked at whenever a transport opens or ends, and when
// MPI is finalised. Where a peer died that never comes: the communicator stays until the process ends.
//
// The first duplicate of each of the program's communicators stays too: on it groups of some ranks form. Open MPI (4.1)
// does that by messages with the tag that the caller names, which on the program's own communicator its receives from
// any rank with any tag would take.

#include <mpi.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "lockstep/core/backend/mpi/module.h"

namespace lockstep::mpi {

/// Begun requests, by what may be done about them.
struct Requests {
  std::vector<MPI_Request> sends;
  std::vector<MPI_Request> receives;

  /// Forgets those that are complete; true when none is left. Never waits.
  bool done();
};

/// A communicator that this rank has ended.
struct Ended {
  MPI_Comm communicator;
  bool kept;  ///< is not freed
  Requests requests;
};

/// The communicator that MPI_Comm_idup() is still making; at a fixed address, since MPI writes there.
struct Duplicate {
  MPI_Comm communicator = MPI_COMM_NULL;
  MPI_Request request = MPI_REQUEST_NULL;
};

class MpiProcess {
 public:
  /// Never destroyed: a transport may be a static object's.
  static MpiProcess& get();

  /// Initialises MPI unless it is. False: `failure` says why this thread may not use it.
  bool start(Failure& failure);

  /// Holds off other threads where MPI wants one at a time. Threads of the program's own it can't hold off.
  std::unique_lock<std::mutex> calls() {
    return any_thread_ ? std::unique_lock<std::mutex>() : std::unique_lock<std::mutex>(calls_);
  }
  bool any_thread() const noexcept { return any_thread_; }
  /// MPI_Finalize() has begun: no call of MPI is left.
  bool finalised() const noexcept { return finalised_.load(std::memory_order_acquire); }

  // With calls() held:
  /// The duplicate of all of `parent`'s ranks is kept, if it is the first. True when it is.
  bool keep(MPI_Comm parent, MPI_Comm duplicate);
  /// That duplicate; `parent` itself where there is none.
  MPI_Comm kept_of(MPI_Comm parent);
  void opened();
  void ended(Ended ended);
  void give_up(std::unique_ptr<Duplicate> duplicate);
  // Without: the last transport went after the process began to exit.
  void finalise_if_last();

 private:
  static void at_exit(int status, void*);
  static int at_finalise(MPI_Comm, int, void*, void*);
  void initialise();
  void free_ended();

  std::mutex starting_;
  int kept_key_ = MPI_KEYVAL_INVALID;  // attribute of a communicator: its kept duplicate
  bool started_ = false;
  std::mutex calls_;
  bool any_thread_ = false;
  std::atomic<bool> finalised_ = false;

  std::mutex lock_;  // of what follows
  std::vector<Ended> ended_;
  std::vector<std::unique_ptr<Duplicate>> given_up_;
  int transports_ = 0;
  bool exiting_ = false;
};

/// Fills `failure` with the pieces of `text`, as printf does.
void fail(Failure& failure, FailureKind kind, const char* format, ...) __attribute__((format(printf, 3, 4)));
/// The same for what an MPI call returned; true where it was an error.
bool failed(int code, const char* call, Failure& failure);

}  // namespace lockstep::mpi
