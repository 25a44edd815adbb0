#pragma once
// Records made by hand, for the tests of `lockstep doctor flight`.

#include <string>
#include <utility>
#include <vector>

#include "apps/lockstep/doctor/flight_diagnosis.h"

namespace lockstep::doctor {

/// An all_reduce of 4 f32; `finished_ms` 0: in flight.
inline FlightOperation all_reduce(std::uint64_t sequence, std::int64_t started_ms, std::int64_t finished_ms = 0) {
  FlightOperation out;
  out.sequence = sequence;
  out.kind = "all_reduce";
  out.count = 4;
  out.dtype = "f32";
  out.op = "sum";
  out.started_ms = started_ms;
  out.finished_ms = finished_ms;
  return out;
}

inline FlightOperation broadcast(std::uint64_t sequence, std::int64_t started_ms, std::int64_t finished_ms = 0,
                                 int root = 0) {
  FlightOperation out = all_reduce(sequence, started_ms, finished_ms);
  out.kind = "broadcast";
  out.root = root;
  return out;
}

inline FlightOperation barrier(std::uint64_t sequence, std::int64_t started_ms, std::int64_t finished_ms = 0) {
  FlightOperation out = all_reduce(sequence, started_ms, finished_ms);
  out.kind = "barrier";
  out.count = 0;
  out.dtype = "u8";
  return out;
}

/// A message of 4 f32.
inline FlightOperation message(std::uint64_t sequence, const std::string& kind, int peer, std::int64_t tag,
                               std::int64_t started_ms, std::int64_t finished_ms = 0) {
  FlightOperation out = all_reduce(sequence, started_ms, finished_ms);
  out.kind = kind;
  out.op = "";
  out.peer = peer;
  out.tag = tag;
  return out;
}

/// A record of group world that was written at `written_ms`.
inline FlightRecord record(int rank, int world_size, std::vector<FlightOperation> collectives,
                           std::int64_t written_ms = 10000) {
  FlightRecord out;
  out.file = "flight_world_rank" + std::to_string(rank) + ".json";
  out.group = "world";
  out.backend = "shm";
  out.rank = rank;
  out.world_size = world_size;
  out.failure = "it failed";
  out.written_ms = written_ms;
  out.collectives = std::move(collectives);
  return out;
}

/// The findings about the only group of these records.
inline std::vector<Finding> diagnose_all(std::vector<FlightRecord> records) {
  return diagnose(flight_groups(std::move(records)).at(0));
}

/// "finding: text", to compare whole lists.
inline std::vector<std::string> lines(const std::vector<Finding>& findings) {
  std::vector<std::string> out;
  for (const Finding& finding : findings) out.push_back(finding.finding + ": " + finding.text);
  return out;
}

}  // namespace lockstep::doctor
