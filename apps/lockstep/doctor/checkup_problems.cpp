#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <set>

#include "apps/lockstep/doctor/blas_kernels.h"
#include "apps/lockstep/doctor/checkup.h"
#include "lockstep/core/base/check.h"

namespace lockstep::doctor {
namespace {

constexpr double kClockLimitUs = 1000;
constexpr double kSlowFactor = 10;

class Judge {
 public:
  explicit Judge(const Checkup& checkup) : checkup_(checkup) {}

  std::vector<Problem> judge() {
    same_build();
    same_backend_asked();
    for (const std::vector<int>& ranks : checkup_.map.ranks_of_host) enough_cpus(ranks);
    for (const std::vector<int>& ranks : checkup_.map.ranks_of_host) fitting_blas(ranks);
    shared_kernels();
    links_alike(true);
    links_alike(false);
    clocks_together();
    closed_store();
    return std::move(problems_);
  }

 private:
  const RankFacts& facts(int rank) const { return checkup_.ranks[static_cast<std::size_t>(rank)]; }

  template <typename... Text>
  void add(const char* kind, std::vector<int> ranks, const Text&... text) {
    problems_.push_back({kind, std::move(ranks), base::cat(text...)});
  }

  static std::string ranks_text(const std::vector<int>& ranks) {
    return (ranks.size() == 1 ? "rank " : "ranks ") + rank_ranges(ranks);
  }

  std::string host_text(const std::vector<int>& ranks) const {
    const int host = checkup_.map.host_of_rank[static_cast<std::size_t>(ranks.front())];
    return base::cat("host ", host, " (", facts(ranks.front()).host_name, ")");
  }

  /// Ranks by what `field` says of them, in the order of their first ranks.
  template <typename Field>
  std::vector<std::vector<int>> groups(Field field) const {
    std::vector<std::string> values;
    for (const RankFacts& rank : checkup_.ranks) values.push_back(field(rank));
    return base::group_by_host(values).ranks_of_host;
  }

  void same_build() {
    const auto builds = groups([](const RankFacts& rank) { return rank.build; });
    if (builds.size() < 2) return;
    std::string text;
    for (const auto& ranks : builds) {
      text += base::cat(text.empty() ? "" : "; ", ranks_text(ranks), ": ", facts(ranks[0]).build);
    }
    add("builds_differ", others_than_largest(builds), "builds differ: ", text, "; install one build on all hosts");
  }

  void same_backend_asked() {
    const auto asked = groups([](const RankFacts& rank) { return rank.backend_asked; });
    if (asked.size() < 2) return;
    std::string text;
    for (const auto& ranks : asked) {
      const std::string& value = facts(ranks[0]).backend_asked;
      text += base::cat(text.empty() ? "" : "; ", ranks_text(ranks), ": ", value.empty() ? "unset" : value);
    }
    add("backend_asked_differs", others_than_largest(asked), "LOCKSTEP_BACKEND differs: ", text,
        "; set it alike everywhere");
  }

  static std::vector<int> others_than_largest(const std::vector<std::vector<int>>& groups) {
    const auto largest = std::ranges::max_element(groups, {}, &std::vector<int>::size);
    std::vector<int> out;
    for (auto group = groups.begin(); group != groups.end(); ++group) {
      if (group != largest) out.insert(out.end(), group->begin(), group->end());
    }
    std::ranges::sort(out);
    return out;
  }

  /// What the ranks of a host may use together: the CPUs of all their masks, or the tightest quota.
  int usable_cpus(const std::vector<int>& ranks) const {
    std::set<int> cpus;
    double quota = 0;
    for (const int rank : ranks) {
      cpus.insert(facts(rank).cpus.begin(), facts(rank).cpus.end());
      const double own = facts(rank).quota;
      if (own > 0 && (quota <= 0 || own < quota)) quota = own;
    }
    const int mask = static_cast<int>(cpus.size());
    return quota > 0 ? std::clamp(static_cast<int>(std::floor(quota)), 1, std::max(mask, 1)) : mask;
  }

  void enough_cpus(const std::vector<int>& ranks) {
    const int count = static_cast<int>(ranks.size());
    const int usable = usable_cpus(ranks);
    if (count > usable) {
      add("too_many_ranks", ranks, host_text(ranks), ": ", count, " ranks on ", usable, usable == 1 ? " CPU" : " CPUs",
          "; start at most ", usable, " there, or let the launcher spread them over more CPUs (binding, quota)");
      return;
    }
    if (count < 2) return;
    enough_cpus_for_threads(ranks, usable);
  }

  void enough_cpus_for_threads(const std::vector<int>& ranks, int usable) {
    std::vector<int> unset;
    long threads = 0;
    for (const int rank : ranks) {
      const std::string& text = facts(rank).omp_num_threads;
      long number = 1;
      std::from_chars(text.data(), text.data() + text.size(), number);
      threads += number;
      // Where the launcher has bound a rank to its share, OpenMP keeps to that by itself.
      if (text.empty() && static_cast<int>(facts(rank).cpus.size()) * static_cast<int>(ranks.size()) > usable) {
        unset.push_back(rank);
      }
    }
    const int share = std::max(1, usable / static_cast<int>(ranks.size()));
    if (!unset.empty()) {
      add("threads_unset", unset, "OMP_NUM_THREADS is not set on ", ranks_text(unset), " of ", host_text(ranks),
          ": a program computes with as many threads as there are CPUs in each rank; set it to ", share,
          ", or start the ranks with `lockstep run`");
    } else if (threads > usable) {
      add("too_many_threads", ranks, host_text(ranks), ": OMP_NUM_THREADS adds up to ", threads, " threads on ", usable,
          " CPUs; set it to ", share);
    }
  }

  void fitting_blas(const std::vector<int>& ranks) {
    std::vector<int> slow;
    for (const int rank : ranks) {
      if (!better_blas_kernels(facts(rank).blas, facts(rank).simd).empty()) slow.push_back(rank);
    }
    if (slow.empty()) return;
    const RankFacts& first = facts(slow.front());
    const std::string better = better_blas_kernels(first.blas, first.simd);
    add("slow_blas", slow, "OpenBLAS does not know the CPUs of ", host_text(ranks), " and computes with its ",
        first.blas, " kernels, several times slower than they can; set OPENBLAS_CORETYPE=", better,
        ", or install a newer OpenBLAS");
  }

  /// Hosts that are one machine, in several containers.
  void shared_kernels() {
    std::map<std::string, std::set<int>> hosts_of_kernel;
    for (const RankFacts& rank : checkup_.ranks) {
      // An id that was given by LOCKSTEP_HOST_ID does not begin with the kernel's.
      if (rank.boot_id.empty() || !rank.host_id.starts_with(rank.boot_id)) continue;
      hosts_of_kernel[rank.boot_id].insert(checkup_.map.host_of_rank[static_cast<std::size_t>(rank.rank)]);
    }
    for (const auto& [kernel, hosts] : hosts_of_kernel) {
      if (hosts.size() < 2) continue;
      std::vector<int> ranks;
      for (const RankFacts& rank : checkup_.ranks) {
        if (hosts.contains(checkup_.map.host_of_rank[static_cast<std::size_t>(rank.rank)])) ranks.push_back(rank.rank);
      }
      const std::vector<int> numbers(hosts.begin(), hosts.end());
      add("kernel_shared", ranks, "hosts ", rank_ranges(numbers),
          " are one machine, and their ranks can't share memory: they run in several containers or as several users; ",
          "run them in one container as one user");
    }
  }

  /// A link that is ten times worse than the middle one of the others of its kind.
  void links_alike(bool inside_host) {
    std::vector<const Link*> links;
    for (const Link& link : checkup_.links) {
      if (link.inside_host == inside_host) links.push_back(&link);
    }
    const auto middle_of_others = [&](const Link* left_out, double Link::*value) {
      std::vector<double> values;
      for (const Link* link : links) {
        if (link != left_out) values.push_back(link->*value);
      }
      std::ranges::sort(values);
      return values[values.size() / 2];
    };
    if (links.size() < 2) return;
    for (const Link* link : links) {
      const double latency = middle_of_others(link, &Link::latency_us);
      const double rate = middle_of_others(link, &Link::gigabytes_per_s);
      const bool late = link->latency_us >= kSlowFactor * latency;
      const bool narrow = link->gigabytes_per_s * kSlowFactor <= rate;
      if (!late && !narrow) continue;
      add("slow_link", {link->ranks.first, link->ranks.second}, "the link between rank ", link->ranks.first,
          " and rank ", link->ranks.second, inside_host ? " inside " : " between ", inside_host ? "a host" : "hosts",
          " is ", late ? "ten times later" : "ten times slower", " than the others (", link->latency_us, " us, ",
          link->gigabytes_per_s, " GB/s; theirs ", latency, " us, ", rate, " GB/s)",
          inside_host ? "; look for other load on that host" : "; look at cable, route and load of these two hosts");
    }
  }

  void clocks_together() {
    for (const std::vector<int>& ranks : checkup_.map.ranks_of_host) {
      const RankFacts& rank = facts(ranks.front());
      if (std::abs(rank.clock_us) - rank.clock_error_us <= kClockLimitUs) continue;
      add("clocks_apart", ranks, "the clock of ", host_text(ranks), " is ", std::abs(rank.clock_us) / 1000, " ms ",
          rank.clock_us > 0 ? "ahead of" : "behind", " rank 0's; run a time service (chrony, ntpd) on all hosts");
    }
  }

  void closed_store() {
    if (checkup_.map.hosts < 2) return;
    std::vector<int> open;
    for (const RankFacts& rank : checkup_.ranks) {
      if (!rank.has_token) open.push_back(rank.rank);
    }
    if (open.empty()) return;
    add("no_token", open, "the job spans hosts without a secret on ", ranks_text(open),
        ": whoever reaches the store's port can join; set LOCKSTEP_JOB_TOKEN (or _FILE) on all hosts");
  }

  const Checkup& checkup_;
  std::vector<Problem> problems_;
};

}  // namespace

std::vector<Problem> find_problems(const Checkup& checkup) { return Judge(checkup).judge(); }

}  // namespace lockstep::doctor
