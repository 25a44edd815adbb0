#include "lockstep/core/backend/mpi/mpi_process.h"

#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace lockstep::mpi {
namespace {

pid_t initialised_by = 0;  // 0: the program initialised MPI, and finalises it

/// Tests each, since MPI_Testall() completes none until it completes all; those that are complete go.
bool none_left(std::vector<MPI_Request>& requests) {
  std::erase_if(requests, [](MPI_Request& request) {
    int complete = 0;
    return MPI_Test(&request, &complete, MPI_STATUS_IGNORE) != MPI_SUCCESS || complete != 0;
  });
  return requests.empty();
}

/// The program freed the communicator. Its duplicate stays with MPI, as a peer may still send on it.
int forget_kept(MPI_Comm, int, void* kept, void*) {
  delete static_cast<MPI_Comm*>(kept);
  return MPI_SUCCESS;
}

}  // namespace

void fail(Failure& failure, FailureKind kind, const char* format, ...) {
  failure.kind = kind;
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(failure.text, sizeof failure.text, format, arguments);
  va_end(arguments);
}

bool failed(int code, const char* call, Failure& failure) {
  if (code == MPI_SUCCESS) return false;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail(failure, FailureKind::kMpi, "%s: %.*s", call, length, text);
  return true;
}

bool Requests::done() {
  const bool sent = none_left(sends);
  return none_left(receives) && sent;
}

MpiProcess& MpiProcess::get() {
  static MpiProcess* const process = new MpiProcess;
  return *process;
}

bool MpiProcess::start(Failure& failure) {
  const std::lock_guard<std::mutex> guard(starting_);
  int finalised = 0;
  MPI_Finalized(&finalised);
  if (finalised != 0) {
    fail(failure, FailureKind::kUsage, "MPI was finalised in this process, and can't be started again");
    return false;
  }
  if (!started_) initialise();
  started_ = true;
  int provided = MPI_THREAD_SINGLE;
  int is_main = 0;
  MPI_Query_thread(&provided);
  MPI_Is_thread_main(&is_main);
  if (provided < MPI_THREAD_SERIALIZED && is_main == 0) {
    fail(failure, FailureKind::kUsage,
         "the program initialised MPI for its main thread alone, and this is another thread: ask for "
         "MPI_THREAD_SERIALIZED or MPI_THREAD_MULTIPLE with MPI_Init_thread()");
    return false;
  }
  return true;
}

void MpiProcess::initialise() {
  int initialised = 0;
  MPI_Initialized(&initialised);
  int provided = MPI_THREAD_SINGLE;
  if (initialised != 0) {
    MPI_Query_thread(&provided);
  } else {
#ifdef OPEN_MPI
    // Over TCP, Open MPI 4.1 moves large messages by a protocol of remote writes that uses a wire in one direction at a
    // time: all-reduces then reach half of its rate. 1 is "send only"; what the user has set stays.
    ::setenv("OMPI_MCA_btl_tcp_flags", "1", 0);
#endif
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided);
    initialised_by = ::getpid();
    ::on_exit(&MpiProcess::at_exit, nullptr);
  }
  any_thread_ = provided == MPI_THREAD_MULTIPLE;
  // MPI_Finalize(), whoever calls it, first deletes what is attached to MPI_COMM_SELF.
  int key = MPI_KEYVAL_INVALID;
  MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, &MpiProcess::at_finalise, &key, nullptr);
  MPI_Comm_set_attr(MPI_COMM_SELF, key, nullptr);
  MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, &forget_kept, &kept_key_, nullptr);
}

bool MpiProcess::keep(MPI_Comm parent, MPI_Comm duplicate) {
  if (kept_of(parent) != parent) return false;
  MPI_Comm_set_attr(parent, kept_key_, new MPI_Comm(duplicate));
  return true;
}

MPI_Comm MpiProcess::kept_of(MPI_Comm parent) {
  void* kept = nullptr;
  int found = 0;
  MPI_Comm_get_attr(parent, kept_key_, static_cast<void*>(&kept), &found);
  return found != 0 ? *static_cast<MPI_Comm*>(kept) : parent;
}

void MpiProcess::opened() {
  const std::lock_guard<std::mutex> guard(lock_);
  ++transports_;
  free_ended();
}

void MpiProcess::ended(Ended ended) {
  const std::lock_guard<std::mutex> guard(lock_);
  --transports_;
  ended_.push_back(std::move(ended));
  free_ended();
}

void MpiProcess::give_up(std::unique_ptr<Duplicate> duplicate) {
  const std::lock_guard<std::mutex> guard(lock_);
  given_up_.push_back(std::move(duplicate));
}

void MpiProcess::free_ended() {
  std::erase_if(ended_, [](Ended& ended) {
    if (!ended.requests.done()) return false;
    if (!ended.kept) MPI_Comm_free(&ended.communicator);
    return true;
  });
}

/// A rank that fails (another exit code than 0) leaves MPI as it is: MPI_Finalize() would wait for ranks that wait for
/// this one, while mpirun ends them all when it sees the exit code. Nor is MPI a forked child's to finalise.
void MpiProcess::at_exit(int status, void*) {
  if (status != 0 || initialised_by != ::getpid()) return;
  MpiProcess& process = get();
  {
    const std::lock_guard<std::mutex> guard(process.lock_);
    process.exiting_ = true;
  }
  process.finalise_if_last();
}

void MpiProcess::finalise_if_last() {
  {
    const std::lock_guard<std::mutex> guard(lock_);
    if (!exiting_ || transports_ > 0 || finalised()) return;
  }
  MPI_Finalize();
}

int MpiProcess::at_finalise(MPI_Comm, int, void*, void*) {
  MpiProcess& process = get();
  const auto alone = process.calls();
  const std::lock_guard<std::mutex> guard(process.lock_);
  process.free_ended();
  for (Ended& ended : process.ended_) {
    for (MPI_Request& request : ended.requests.receives) {
      MPI_Cancel(&request);
      MPI_Request_free(&request);
    }
    for (MPI_Request& request : ended.requests.sends) MPI_Request_free(&request);
  }
  process.finalised_.store(true, std::memory_order_release);
  return MPI_SUCCESS;
}

}  // namespace lockstep::mpi
