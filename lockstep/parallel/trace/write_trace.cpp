// Each rank brings its own spans to rank 0's clock and writes its own part; rank 0 puts the parts together.

#include <chrono>
#include <cstdint>
#include <exception>
#include <limits>
#include <string>
#include <vector>

#include "lockstep/core/base/error.h"
#include "lockstep/core/base/host.h"
#include "lockstep/core/comm/blobs.h"
#include "lockstep/core/comm/clock_offset.h"
#include "lockstep/core/io/file.h"
#include "lockstep/parallel/group/process_group.h"
#include "lockstep/parallel/trace/chrome_trace.h"
#include "lockstep/parallel/trace/trace.h"

namespace lockstep {
namespace {

constexpr int kTag = 0x7ace;  // messages of the group's users may be under way

std::int64_t clock_ns() { return trace::common_ns(Clock::now(), {}); }

/// Collective: how this rank's Clock compares with rank 0's.
ClockOffset compare_clocks(Communicator& communicator) {
  const std::string boot = base::boot_id();
  const std::string boot_of_0 = broadcast_blob(communicator, boot, 0);
  const ClockOffset measured = measure_clock_offset(communicator, clock_ns, kTag);
  return trace::settle_offset(measured, !boot.empty() && boot == boot_of_0);
}

/// Collective: the start of the first span of all; now, where there is none.
std::int64_t first_of_all(Communicator& communicator, const trace::RankTrace& own) {
  const std::int64_t own_first = trace::first_ns(own);
  std::int64_t first = 0;
  communicator.all_reduce(&own_first, &first, 1, DType::kInt64, ReduceOp::kMin);
  return first == std::numeric_limits<std::int64_t>::max() ? clock_ns() : first;
}

double unix_seconds_of(std::int64_t moment_ns) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  return now.count() - static_cast<double>(clock_ns() - moment_ns) * 1e-9;
}

/// Collective: rank 0 writes the file; all ranks throw where it cannot.
void write_at_0(Communicator& communicator, const std::string& file, const std::string& content) {
  std::int64_t number = 0;  // errno of what failed
  std::exception_ptr failure;
  if (communicator.rank() == 0) {
    try {
      io::write_file_atomic(file, content, io::Durability::kCached);
    } catch (const SystemError& error) {
      number = error.code();
      failure = std::current_exception();
    }
  }
  communicator.broadcast(&number, 1, DType::kInt64, 0);
  if (failure) std::rethrow_exception(failure);
  if (number != 0) throw SystemError("rank 0 could not write trace file " + file, static_cast<int>(number));
}

}  // namespace

void write_trace(ProcessGroup& group, const Trace& trace, const std::string& file) {
  Communicator& communicator = group.communicator();
  trace::RankTrace own;
  own.rank = group.rank();
  own.local_rank = group.local_rank();
  own.host = base::host_name();
  own.events = trace.events();
  own.dropped = trace.dropped();
  own.clock = compare_clocks(communicator);
  const std::int64_t begin = first_of_all(communicator, own);
  const std::vector<std::string> events = gather_blobs(communicator, trace::rank_events_json(own, begin), 0);
  const std::vector<std::string> facts = gather_blobs(communicator, trace::rank_facts_json(own), 0);
  std::string content;
  if (group.rank() == 0) content = trace::trace_file_json(events, facts, unix_seconds_of(begin));
  write_at_0(communicator, file, content);
}

}  // namespace lockstep
