#pragma once
// The file of a trace, in Chrome's trace event format. Pure. Internal: never included from a public header.
// Source: Google, "Trace Event Format"; docs/formats/trace.md has what is used of it.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lockstep/core/comm/clock_offset.h"
#include "lockstep/parallel/trace/trace.h"

namespace lockstep::trace {

/// A rank and what it recorded.
struct RankTrace {
  int rank = 0;
  int local_rank = 0;
  std::string host;
  ClockOffset clock;  ///< of its Clock to rank 0's
  std::int64_t dropped = 0;
  std::vector<TraceEvent> events;
};

/// What compares clocks of two ranks, where messages said `measured`. Processes of one kernel read one clock: there is
/// nothing to correct, unless what was measured rules it out (a time namespace).
ClockOffset settle_offset(const ClockOffset& measured, bool same_kernel);

/// A moment of the rank's Clock, in nanoseconds of rank 0's.
std::int64_t common_ns(Clock::time_point moment, const ClockOffset& clock);

/// The earliest start of `trace`, in nanoseconds of rank 0's Clock; INT64_MAX where there is no event.
std::int64_t first_ns(const RankTrace& trace);

/// A row of the picture.
struct Track {
  std::string name;                       ///< "compute", "communication", "communication 2"
  std::vector<const TraceEvent*> events;  ///< by start; of those that start together the longest first
};

/// Puts each event on a track of its category: step, compute, wait, communication, then others by name. Events of
/// communication share a track only where they do not overlap; others also where one lies within the other, which a
/// viewer draws below it. As few tracks as that allows.
std::vector<Track> assign_tracks(std::span<const TraceEvent> events);

/// The rank's elements of the file's "traceEvents", one a line, with commas between them; its times count in
/// microseconds from `begin_ns` of rank 0's Clock.
std::string rank_events_json(const RankTrace& trace, std::int64_t begin_ns);

/// The rank's element of the file's "ranks".
std::string rank_facts_json(const RankTrace& trace);

/// The whole file, of all ranks' parts in rank order. `begin_unix_s` is when its times begin, in seconds since 1970.
std::string trace_file_json(std::span<const std::string> rank_events, std::span<const std::string> rank_facts,
                            double begin_unix_s);

}  // namespace lockstep::trace
