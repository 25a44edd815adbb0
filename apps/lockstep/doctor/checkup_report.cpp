#include "apps/lockstep/doctor/checkup_report.h"

#include <algorithm>
#include <cstdio>
#include <ostream>
#include <set>

#include "apps/lockstep/doctor/flight_report.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/launch/worker_plan.h"

namespace lockstep::doctor {
namespace {

using Row = std::vector<std::string>;

constexpr std::size_t kMostRows = 24;

/// Three significant digits.
std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, value != 0 && std::abs(value) < 100 ? "%.3g" : "%.0f", value);
  return text;
}

std::string plural(std::size_t n, const char* word) { return base::cat(n, " ", word, n == 1 ? "" : "s"); }

void print_table(std::ostream& out, const char* title, const std::vector<Row>& rows) {
  if (rows.size() < 2) return;
  std::vector<std::size_t> width(rows[0].size());
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  }
  out << '\n' << title << '\n';
  for (std::size_t r = 0; r < std::min(rows.size(), kMostRows + 1); ++r) {
    std::string line;
    for (std::size_t i = 0; i < rows[r].size(); ++i) {
      line += "  " + rows[r][i] + std::string(width[i] - rows[r][i].size(), ' ');
    }
    out << line.substr(0, line.find_last_not_of(' ') + 1) << '\n';
  }
  if (rows.size() > kMostRows + 1) out << "  and " << rows.size() - kMostRows - 1 << " more: see --json\n";
}

std::vector<Row> host_rows(const Checkup& checkup) {
  std::vector<Row> rows = {{"host", "name", "ranks", "CPUs", "quota", "clock", "SIMD", "BLAS"}};
  for (int host = 0; host < checkup.map.hosts; ++host) {
    const auto& ranks = checkup.map.ranks_of_host[static_cast<std::size_t>(host)];
    const RankFacts& first = checkup.ranks[static_cast<std::size_t>(ranks.front())];
    std::set<int> cpus;
    for (const int rank : ranks) {
      const auto& own = checkup.ranks[static_cast<std::size_t>(rank)].cpus;
      cpus.insert(own.begin(), own.end());
    }
    const std::string clock =
        first.rank == 0 ? "0 us" : number(first.clock_us) + " +- " + number(first.clock_error_us) + " us";
    rows.push_back({std::to_string(host), printable(first.host_name, 32), rank_ranges(ranks),
                    base::cat(cpus.size(), " (", launch::format_cpus({cpus.begin(), cpus.end()}), ")"),
                    first.quota > 0 ? number(first.quota) : "-", clock, first.simd,
                    first.blas.empty() ? "-" : printable(first.blas, 16)});
  }
  return rows;
}

std::vector<Row> rank_rows(const Checkup& checkup) {
  std::vector<Row> rows = {{"rank", "host", "local", "CPUs", "OMP_NUM_THREADS", "store"}};
  for (const RankFacts& facts : checkup.ranks) {
    const int host = checkup.map.host_of_rank[static_cast<std::size_t>(facts.rank)];
    rows.push_back({std::to_string(facts.rank), std::to_string(host), std::to_string(facts.local_rank),
                    launch::format_cpus(facts.cpus),
                    facts.omp_num_threads.empty() ? "unset" : printable(facts.omp_num_threads, 16),
                    number(facts.store_us) + " us"});
  }
  return rows;
}

std::vector<Row> link_rows(const Checkup& checkup) {
  std::vector<Row> rows = {{"ranks", "where", "latency", "bandwidth"}};
  std::vector<Link> links = checkup.links;
  // Where not all are shown, the slowest are.
  if (links.size() > kMostRows) std::ranges::sort(links, {}, &Link::gigabytes_per_s);
  const auto host_of = [&](int rank) { return checkup.map.host_of_rank[static_cast<std::size_t>(rank)]; };
  for (const Link& link : links) {
    const int first = host_of(link.ranks.first);
    const int second = host_of(link.ranks.second);
    rows.push_back({base::cat(link.ranks.first, " - ", link.ranks.second),
                    first == second ? base::cat("inside host ", first) : base::cat("hosts ", first, " - ", second),
                    number(link.latency_us) + " us", number(link.gigabytes_per_s) + " GB/s"});
  }
  return rows;
}

}  // namespace

void print_checkup(std::ostream& out, const Checkup& checkup, const std::vector<Problem>& problems) {
  const RankFacts& first = checkup.ranks.front();
  out << plural(checkup.ranks.size(), "rank") << " on " << plural(static_cast<std::size_t>(checkup.map.hosts), "host")
      << ", backend " << checkup.backend;
  out << (first.backend_asked.empty() ? "" : " (LOCKSTEP_BACKEND=" + printable(first.backend_asked) + ")");
  if (first.launcher != "none") out << ", environment of " << first.launcher;
  out << '\n';
  if (!checkup.reason.empty()) out << "chosen because: " << checkup.reason << '\n';
  out << first.build << '\n';
  print_table(out, "hosts", host_rows(checkup));
  print_table(out, "ranks", rank_rows(checkup));
  print_table(out, "links (latency: one way, 4 bytes; bandwidth: 4 MiB messages)", link_rows(checkup));
  out << '\n';
  if (problems.empty()) out << "no problems found\n";
  if (!problems.empty()) out << plural(problems.size(), "problem") << '\n';
  for (std::size_t i = 0; i < problems.size(); ++i) {
    out << "  " << i + 1 << ". " << printable(problems[i].text) << '\n';
  }
}

}  // namespace lockstep::doctor
