#include "lockstep/core/backend/mpi/mpi_transport.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <string_view>
#include <thread>

#include "lockstep/core/backend/mpi/loader.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/log.h"

namespace lockstep::mpi {
namespace {

std::string who(const Meeting& meeting) {
  return base::cat("rank ", meeting.rank, "/", meeting.world_size, " group ", meeting.group);
}

void raise(const Meeting& meeting, const Failure& failure) {
  const std::string text = base::cat(who(meeting), ": ", failure.text);
  if (failure.kind == FailureKind::kUsage) throw UsageError(text);
  throw SystemError(text, EPROTO);
}

/// FNV-1a of the group: two groups that form at once on the same parent rarely share a tag.
int tag_of(const Meeting& meeting, const std::vector<int>& members) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  const auto add = [&hash](std::uint64_t value) { hash = (hash ^ value) * 0x100000001b3ULL; };
  for (const char c : meeting.group) add(static_cast<unsigned char>(c));
  for (const int rank : members) add(static_cast<std::uint64_t>(rank));
  return kFirstGroupTag + static_cast<int>(hash % kGroupTags);
}

void wait_until_done(Opening& opening, const Meeting& meeting) {
  Duration pause = std::chrono::microseconds(50);
  while (!opening.done()) {
    if (meeting.while_waiting) meeting.while_waiting();
    if (meeting.deadline.passed()) {
      throw TimeoutError(base::cat(who(meeting), ": not all ranks came to make the group within ",
                                   seconds(meeting.deadline.timeout()), " s (MPI does not tell which are missing)"));
    }
    std::this_thread::sleep_for(pause);
    pause = std::min<Duration>(pause * 2, std::chrono::milliseconds(2));
  }
}

}  // namespace

std::unique_ptr<wire::Transport> make_mpi_transport(const Meeting& meeting, const MpiOptions& options) {
  const Module& module = load_module(options.parent.flavour);
  OpenRequest request;
  request.parent = options.parent;
  if (!options.members.empty()) {
    request.members = options.members.data();
    request.member_count = static_cast<int>(options.members.size());
  }
  request.tag = tag_of(meeting, options.members);

  Failure failure;
  const std::unique_ptr<Opening> opening = module.open(request, failure);
  if (opening == nullptr) raise(meeting, failure);
  wait_until_done(*opening, meeting);
  auto transport = opening->take(failure);
  if (transport == nullptr) raise(meeting, failure);
  LS_REQUIRE(transport->rank() == meeting.rank && transport->world_size() == meeting.world_size, who(meeting), ": ",
             module.library, " says rank ", transport->rank(), " of ", transport->world_size(),
             "; was the program started by that MPI's own mpirun?");
  LS_LOG(kInfo, who(meeting), ": ", module.library, transport->any_thread() ? ", any thread" : ", one thread");
  return transport;
}

}  // namespace lockstep::mpi
