#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/core/base/host.h"

namespace lockstep::doctor {

/// What one rank says of itself.
struct RankFacts {
  int rank = 0;
  int local_rank = 0;
  std::string launcher;   ///< whose variables it went by: lockstep, torchrun, openmpi, mpich, slurm, none
  std::string host_name;  ///< for people
  std::string host_id;    ///< what decides; see base::HostIdentity
  std::string boot_id;    ///< of its kernel
  std::string build;      ///< build_id()
  std::string simd;       ///< vector instructions that the kernels use
  std::string blas;       ///< blas_kernels()
  std::vector<int> cpus;  ///< that it may run on
  double quota = 0;       ///< CPUs' worth of time of its control groups; 0: no limit
  std::string omp_num_threads;
  std::string backend_asked;  ///< LOCKSTEP_BACKEND
  bool has_token = false;     ///< the store is closed to strangers
  double store_us = 0;        ///< best round trip to the store
  double clock_us = 0;        ///< its wall clock minus rank 0's
  double clock_error_us = 0;  ///< half of the round trip in which that was found: it may be wrong by as much
};

/// Lossless, as JSON: how facts travel to rank 0. from_blob() throws CorruptionError.
std::string to_blob(const RankFacts& facts);
RankFacts from_blob(const std::string& blob);

/// Two ranks whose link is measured; first < second.
struct Pair {
  int first = 0;
  int second = 0;
  bool operator==(const Pair&) const = default;
};

/// What is measured at once, one round after the other: in a round no rank is in two pairs, and no host has two pairs
/// that leave it. The first round has a pair inside of each host that has two ranks; the others have each pair of hosts
/// once (the circle method for round-robin tournaments), between their first ranks. Pure; at most hosts + 1 rounds.
std::vector<std::vector<Pair>> plan_pairs(const base::HostMap& map);

/// A measured link.
struct Link {
  Pair ranks;
  bool inside_host = false;
  double latency_us = 0;       ///< half of the best round trip of 4 bytes
  double gigabytes_per_s = 0;  ///< 1e9 bytes; of the best round trip of large messages, each way
};

/// All that was found out.
struct Checkup {
  std::string backend;
  std::string reason = {};  ///< why that backend
  base::HostMap map;
  std::vector<RankFacts> ranks;  ///< in rank order
  std::vector<Link> links;
};

/// Something that is not as it should be, with the way out.
struct Problem {
  std::string kind;  ///< for programs: builds_differ, clocks_apart, slow_link, too_many_ranks, too_many_threads,
                     ///< threads_unset, slow_blas, kernel_shared, no_token, backend_asked_differs
  std::vector<int> ranks;
  std::string text;  ///< one line
  bool operator==(const Problem&) const = default;
};

/// What is wrong with a job, worst first. Pure.
std::vector<Problem> find_problems(const Checkup& checkup);

/// "0-3, 7": ascending ranks for people.
std::string rank_ranges(const std::vector<int>& ranks);

}  // namespace lockstep::doctor
