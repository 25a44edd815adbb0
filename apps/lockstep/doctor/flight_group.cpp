#include "apps/lockstep/doctor/flight_group.h"

#include <algorithm>
#include <iomanip>
#include <map>
#include <sstream>
#include <utility>

#include "lockstep/core/base/check.h"

namespace lockstep::doctor {
namespace {

constexpr std::int64_t kHourMs = 3600 * 1000;

std::int64_t first_written(const std::vector<FlightRecord>& records) {
  return std::ranges::min(records, {}, &FlightRecord::written_ms).written_ms;
}
std::int64_t last_written(const std::vector<FlightRecord>& records) {
  return std::ranges::max(records, {}, &FlightRecord::written_ms).written_ms;
}

/// False where one rank finished what another had not begun, though it takes all of them: then their clocks, or their
/// runs, are different ones.
bool times_fit(const std::vector<FlightRecord>& records) {
  struct Span {
    std::int64_t last_start = 0;
    std::int64_t first_end = 0;
  };
  std::map<std::uint64_t, Span> spans;
  for (const FlightRecord& record : records) {
    for (const FlightOperation& operation : record.collectives) {
      if (operation.finished_ms == 0 || !takes_all_ranks(operation)) continue;
      const auto [span, fresh] =
          spans.try_emplace(operation.sequence, Span{operation.started_ms, operation.finished_ms});
      if (fresh) continue;
      span->second.last_start = std::max(span->second.last_start, operation.started_ms);
      span->second.first_end = std::min(span->second.first_end, operation.finished_ms);
    }
  }
  return std::ranges::all_of(spans, [](const auto& span) { return span.second.last_start <= span.second.first_end; });
}

void complete(FlightGroup& group) {
  std::ranges::sort(group.records, [](const FlightRecord& a, const FlightRecord& b) {
    return a.rank != b.rank ? a.rank < b.rank : a.written_ms > b.written_ms;
  });
  std::vector<FlightRecord> all = std::exchange(group.records, {});
  for (FlightRecord& record : all) {
    const bool fresh = group.records.empty() || group.records.back().rank != record.rank;
    (fresh ? group.records : group.spare).push_back(std::move(record));
  }
  auto next = group.records.begin();
  for (int rank = 0; rank < group.world_size; ++rank) {
    if (next != group.records.end() && next->rank == rank) {
      ++next;
    } else {
      group.absent.push_back(rank);
    }
  }
  group.gave_up_ms = first_written(group.records);
  group.same_clock = last_written(group.records) - group.gave_up_ms <= kHourMs && times_fit(group.records);
}

}  // namespace

const FlightRecord* FlightGroup::record_of(int rank) const {
  const auto found = std::ranges::lower_bound(records, rank, {}, &FlightRecord::rank);
  return found != records.end() && found->rank == rank ? &*found : nullptr;
}

std::string FlightGroup::title() const {
  return base::cat("group ", name, " (", world_size, world_size == 1 ? " rank)" : " ranks)");
}

bool FlightGroup::in_time(const FlightOperation& operation) const {
  return !same_clock || operation.finished_ms != 0 || operation.started_ms <= gave_up_ms;
}

std::vector<FlightGroup> flight_groups(std::vector<FlightRecord> records) {
  if (records.empty()) return {};
  const bool one_clock = last_written(records) - first_written(records) <= kHourMs;
  std::map<std::pair<std::string, int>, FlightGroup> by_name;
  for (FlightRecord& record : records) {
    FlightGroup& group = by_name[{record.group, record.world_size}];
    group.name = record.group;
    group.world_size = record.world_size;
    group.records.push_back(std::move(record));
  }
  std::vector<FlightGroup> groups;
  for (auto& [key, group] : by_name) {
    complete(group);
    groups.push_back(std::move(group));
  }
  if (one_clock) std::ranges::stable_sort(groups, {}, &FlightGroup::gave_up_ms);
  return groups;
}

bool takes_all_ranks(const FlightOperation& operation) {
  // Others may end early: a broadcast at its root, parts without elements.
  return operation.kind == "barrier" || (operation.kind == "all_reduce" && operation.count != 0);
}

std::string rank_list(const std::vector<int>& ranks) {
  constexpr std::size_t kShown = 8;
  constexpr std::size_t kRange = 4;  // Shorter runs read better number by number.
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  std::size_t shown = 0;
  for (std::size_t i = 0; i < ranks.size(); ++shown) {
    if (shown == kShown) return text + base::cat(" and ", ranks.size() - i, " more");
    std::size_t end = i + 1;
    while (end < ranks.size() && ranks[end] - ranks[i] == static_cast<int>(end - i)) ++end;
    text += base::cat(i == 0 ? "" : ", ", ranks[i]);
    if (end - i >= kRange) {
      text += base::cat("-", ranks[end - 1]);
      i = end;
    } else {
      ++i;
    }
  }
  return text;
}

std::string duration_text(std::int64_t milliseconds) {
  if (milliseconds < 1000) return base::cat(milliseconds, " ms");
  std::ostringstream text;
  text << std::fixed << std::setprecision(1) << static_cast<double>(milliseconds) / 1000 << " s";
  return text.str();
}

}  // namespace lockstep::doctor
