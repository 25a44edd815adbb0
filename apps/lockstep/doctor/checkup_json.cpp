#include <nlohmann/json.hpp>

#include "apps/lockstep/doctor/checkup.h"
#include "apps/lockstep/doctor/checkup_report.h"
#include "lockstep/core/base/error.h"

namespace lockstep::doctor {
namespace {

using Json = nlohmann::ordered_json;

// Whatever bytes a host has in its name, the line is valid UTF-8.
std::string line_of(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

Json facts_json(const RankFacts& facts) {
  return {{"rank", facts.rank},
          {"local_rank", facts.local_rank},
          {"launcher", facts.launcher},
          {"host_name", facts.host_name},
          {"host_id", facts.host_id},
          {"boot_id", facts.boot_id},
          {"build", facts.build},
          {"simd", facts.simd},
          {"blas", facts.blas},
          {"cpus", facts.cpus},
          {"quota", facts.quota},
          {"omp_num_threads", facts.omp_num_threads},
          {"backend_asked", facts.backend_asked},
          {"has_token", facts.has_token},
          {"store_us", facts.store_us},
          {"clock_us", facts.clock_us},
          {"clock_error_us", facts.clock_error_us}};
}

}  // namespace

std::string to_blob(const RankFacts& facts) { return line_of(facts_json(facts)); }

RankFacts from_blob(const std::string& blob) {
  try {
    const Json json = Json::parse(blob);
    RankFacts facts;
    json.at("rank").get_to(facts.rank);
    json.at("local_rank").get_to(facts.local_rank);
    json.at("launcher").get_to(facts.launcher);
    json.at("host_name").get_to(facts.host_name);
    json.at("host_id").get_to(facts.host_id);
    json.at("boot_id").get_to(facts.boot_id);
    json.at("build").get_to(facts.build);
    json.at("simd").get_to(facts.simd);
    json.at("blas").get_to(facts.blas);
    json.at("cpus").get_to(facts.cpus);
    json.at("quota").get_to(facts.quota);
    json.at("omp_num_threads").get_to(facts.omp_num_threads);
    json.at("backend_asked").get_to(facts.backend_asked);
    json.at("has_token").get_to(facts.has_token);
    json.at("store_us").get_to(facts.store_us);
    json.at("clock_us").get_to(facts.clock_us);
    json.at("clock_error_us").get_to(facts.clock_error_us);
    return facts;
  } catch (const Json::exception& error) {
    throw CorruptionError(std::string("what a rank says of itself is not readable (do all ranks run one build of "
                                      "lockstep?): ") +
                              error.what(),
                          "a rank's facts");
  }
}

std::string to_json(const Checkup& checkup, const std::vector<Problem>& problems) {
  Json json = {{"backend", checkup.backend}, {"reason", checkup.reason}, {"world_size", checkup.ranks.size()},
               {"hosts", Json::array()},     {"ranks", Json::array()},   {"links", Json::array()},
               {"problems", Json::array()}};
  for (int host = 0; host < checkup.map.hosts; ++host) {
    const auto& ranks = checkup.map.ranks_of_host[static_cast<std::size_t>(host)];
    const RankFacts& first = checkup.ranks[static_cast<std::size_t>(ranks.front())];
    json["hosts"].push_back({{"host", host}, {"name", first.host_name}, {"id", first.host_id}, {"ranks", ranks}});
  }
  for (const RankFacts& facts : checkup.ranks) json["ranks"].push_back(facts_json(facts));
  for (const Link& link : checkup.links) {
    json["links"].push_back({{"ranks", {link.ranks.first, link.ranks.second}},
                             {"inside_host", link.inside_host},
                             {"latency_us", link.latency_us},
                             {"gigabytes_per_s", link.gigabytes_per_s}});
  }
  for (const Problem& problem : problems) {
    json["problems"].push_back({{"problem", problem.kind}, {"ranks", problem.ranks}, {"text", problem.text}});
  }
  return line_of(json);
}

}  // namespace lockstep::doctor
