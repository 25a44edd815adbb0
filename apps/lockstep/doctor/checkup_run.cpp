// Who is measured sends and receives alone: between the rounds all ranks meet in a barrier. The least of many round
// trips counts, since whatever else runs on a host only ever makes one longer.

#include "apps/lockstep/doctor/checkup_run.h"

#include <time.h>

#include <algorithm>
#include <chrono>

#include <nlohmann/json.hpp>

#include "apps/lockstep/doctor/blas_kernels.h"
#include "apps/lockstep/doctor/build_id.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/cpus.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/comm/blobs.h"
#include "lockstep/core/comm/clock_offset.h"
#include "lockstep/core/kernels/kernels.h"

namespace lockstep::doctor {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kTag = 0;
constexpr int kSmallTrips = 100;
constexpr int kLargeTrips = 5;
constexpr int kStoreTrips = 20;
constexpr std::size_t kSmallBytes = 4;
constexpr std::size_t kLargeBytes = 4 << 20;

double microseconds(Clock::duration duration) { return std::chrono::duration<double, std::micro>(duration).count(); }

std::int64_t wall_clock_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

RankFacts own_facts(const Job& job) {
  const RankEnvironment& environment = job.environment;
  RankFacts facts;
  facts.rank = environment.rank;
  facts.local_rank = environment.local_rank;
  facts.launcher = environment.source;
  const base::HostIdentity host = base::own_host();
  facts.host_name = host.name;
  facts.host_id = host.id;
  facts.boot_id = base::boot_id();
  facts.build = build_id();
  facts.simd = kernels::instruction_set();
  facts.blas = blas_kernels();
  const base::CpuBudget budget = base::read_cpu_budget();
  facts.cpus = budget.cpus;
  facts.quota = budget.quota;
  facts.omp_num_threads = environment_string("OMP_NUM_THREADS").value_or("");
  facts.backend_asked = environment_string("LOCKSTEP_BACKEND").value_or("");
  facts.has_token = !environment.job_token.empty();
  return facts;
}

double measure_store(Store& store) {
  double best = 0;
  for (int trip = 0; trip < kStoreTrips; ++trip) {
    const auto start = Clock::now();
    store.try_get("doctor");
    const double took = microseconds(Clock::now() - start);
    best = trip == 0 ? took : std::min(best, took);
  }
  return best;
}

/// The best round trip in microseconds; the other rank of the pair returns another number, which nobody uses.
double best_round_trip(Communicator& communicator, const Pair& pair, std::vector<std::uint8_t>& buffer, int trips) {
  const bool first = communicator.rank() == pair.first;
  const int peer = first ? pair.second : pair.first;
  double best = 0;
  for (int trip = -1; trip < trips; ++trip) {  // one to warm up
    const auto start = Clock::now();
    if (first) communicator.send(buffer.data(), buffer.size(), DType::kUInt8, peer, kTag);
    communicator.recv(buffer.data(), buffer.size(), DType::kUInt8, peer, kTag);
    if (!first) communicator.send(buffer.data(), buffer.size(), DType::kUInt8, peer, kTag);
    const double took = microseconds(Clock::now() - start);
    if (trip == 0 || (trip > 0 && took < best)) best = took;
  }
  return best;
}

Link measure_link(Communicator& communicator, const Pair& pair, bool inside_host) {
  Link link{pair, inside_host};
  std::vector<std::uint8_t> buffer(kSmallBytes);
  link.latency_us = best_round_trip(communicator, pair, buffer, kSmallTrips) / 2;
  buffer.resize(kLargeBytes);
  const double large_us = best_round_trip(communicator, pair, buffer, kLargeTrips) / 2;
  link.gigabytes_per_s = static_cast<double>(kLargeBytes) / 1000 / std::max(large_us, 1e-3);
  return link;
}

/// Those in which this rank is the first.
std::vector<Link> measure_links(Communicator& communicator, const base::HostMap& map) {
  std::vector<Link> links;
  const int rank = communicator.rank();
  const auto host_of = [&](int member) { return map.host_of_rank[static_cast<std::size_t>(member)]; };
  for (const std::vector<Pair>& round : plan_pairs(map)) {
    communicator.barrier();
    for (const Pair& pair : round) {
      if (rank != pair.first && rank != pair.second) continue;
      const Link link = measure_link(communicator, pair, host_of(pair.first) == host_of(pair.second));
      if (rank == pair.first) links.push_back(link);
    }
  }
  communicator.barrier();
  return links;
}

std::string to_blob(const std::vector<Link>& links) {
  Json json = Json::array();
  for (const Link& link : links) {
    json.push_back({link.ranks.first, link.ranks.second, link.inside_host, link.latency_us, link.gigabytes_per_s});
  }
  return json.dump();
}

void add_links(std::vector<Link>& links, const std::string& blob) {
  for (const Json& row : Json::parse(blob)) {
    links.push_back(
        {{row[0].get<int>(), row[1].get<int>()}, row[2].get<bool>(), row[3].get<double>(), row[4].get<double>()});
  }
}

}  // namespace

Checkup run_checkup(const Job& job) {
  Communicator& communicator = *job.communicator;
  Checkup checkup;
  checkup.backend = communicator.backend_name();
  checkup.reason = communicator.backend_reason();
  RankFacts own = own_facts(job);
  checkup.map = base::group_by_host(all_gather_blobs(communicator, own.host_id));
  own.store_us = measure_store(*job.store);
  communicator.barrier();
  const ClockOffset clock = measure_clock_offset(communicator, wall_clock_ns, kTag);
  own.clock_us = static_cast<double>(clock.ahead_ns) / 1000;
  own.clock_error_us = static_cast<double>(clock.error_ns) / 1000;
  const std::vector<Link> own_links = measure_links(communicator, checkup.map);
  for (const std::string& blob : gather_blobs(communicator, to_blob(own), 0)) {
    checkup.ranks.push_back(from_blob(blob));
  }
  for (const std::string& blob : gather_blobs(communicator, to_blob(own_links), 0)) add_links(checkup.links, blob);
  std::ranges::sort(checkup.links, {}, [](const Link& link) { return std::pair(link.ranks.first, link.ranks.second); });
  return checkup;
}

}  // namespace lockstep::doctor
