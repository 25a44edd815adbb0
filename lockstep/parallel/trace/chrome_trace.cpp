#include "lockstep/parallel/trace/chrome_trace.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <map>
#include <string_view>

#include <nlohmann/json.hpp>

#include "lockstep/core/base/check.h"

namespace lockstep::trace {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kCommunication = "communication";
constexpr std::array<std::string_view, 4> kOrder = {"step", "compute", "wait", kCommunication};

/// Where the category's tracks are among the others'; what is not known comes last.
std::size_t place_of(std::string_view category) {
  return static_cast<std::size_t>(std::ranges::find(kOrder, category) - kOrder.begin());
}

std::int64_t to_ns(Clock::time_point moment) {
  return std::chrono::duration_cast<Duration>(moment.time_since_epoch()).count();
}

double to_us(std::int64_t ns) { return static_cast<double>(ns) / 1000; }

/// A track that takes events in the order of their starts.
class Row {
 public:
  explicit Row(std::string name) : track_{std::move(name), {}} {}

  /// Takes `next` where it overlaps nothing, or, if `within` may be, where it lies within what it overlaps.
  bool take(const TraceEvent& next, bool within) {
    while (!open_.empty() && open_.back() <= next.start) open_.pop_back();
    if (!open_.empty() && (!within || next.end > open_.back())) return false;
    open_.push_back(next.end);
    track_.events.push_back(&next);
    return true;
  }
  Track& track() { return track_; }

 private:
  Track track_;
  std::vector<Clock::time_point> open_;  // ends of those that may not be over, each within the one before
};

/// A name of any bytes: what is no UTF-8 is replaced, so that a file is always readable.
std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

void append_line(std::string& text, const Json& json) {
  if (!text.empty()) text += ",\n";
  text += dump(json);
}

Json metadata(int pid, int tid, const char* name, Json args) {
  return {{"ph", "M"}, {"pid", pid}, {"tid", tid}, {"name", name}, {"args", std::move(args)}};
}

}  // namespace

ClockOffset settle_offset(const ClockOffset& measured, bool same_kernel) {
  const bool can_be_zero = std::abs(measured.ahead_ns) <= measured.error_ns;
  return same_kernel && can_be_zero ? ClockOffset{} : measured;
}

std::int64_t common_ns(Clock::time_point moment, const ClockOffset& clock) { return to_ns(moment) - clock.ahead_ns; }

std::int64_t first_ns(const RankTrace& trace) {
  std::int64_t first = std::numeric_limits<std::int64_t>::max();
  for (const TraceEvent& event : trace.events) first = std::min(first, common_ns(event.start, trace.clock));
  return first;
}

std::vector<Track> assign_tracks(std::span<const TraceEvent> events) {
  std::vector<const TraceEvent*> sorted;
  for (const TraceEvent& event : events) sorted.push_back(&event);
  std::ranges::stable_sort(sorted, [](const TraceEvent* a, const TraceEvent* b) {
    return a->start != b->start ? a->start < b->start : a->end > b->end;
  });
  std::map<std::pair<std::size_t, std::string_view>, std::vector<Row>> by_category;
  for (const TraceEvent* event : sorted) {
    const std::string_view category = event->category;
    auto& rows = by_category[{place_of(category), category}];
    const bool within = category != kCommunication;
    if (std::ranges::any_of(rows, [&](Row& row) { return row.take(*event, within); })) continue;
    const std::string number = rows.empty() ? "" : base::cat(" ", rows.size() + 1);
    rows.emplace_back(std::string(category) + number).take(*event, within);
  }
  std::vector<Track> all;
  for (auto& [place, rows] : by_category) {
    for (Row& row : rows) all.push_back(std::move(row.track()));
  }
  return all;
}

std::string rank_events_json(const RankTrace& trace, std::int64_t begin_ns) {
  std::string text;
  const std::string name = base::cat("rank ", trace.rank, " (", trace.host, ", local rank ", trace.local_rank, ")");
  append_line(text, metadata(trace.rank, 0, "process_name", {{"name", name}}));
  append_line(text, metadata(trace.rank, 0, "process_sort_index", {{"sort_index", trace.rank}}));
  int tid = 0;
  for (const Track& track : assign_tracks(trace.events)) {
    ++tid;
    append_line(text, metadata(trace.rank, tid, "thread_name", {{"name", track.name}}));
    append_line(text, metadata(trace.rank, tid, "thread_sort_index", {{"sort_index", tid}}));
    for (const TraceEvent* event : track.events) {
      Json json = {{"ph", "X"},
                   {"pid", trace.rank},
                   {"tid", tid},
                   {"ts", to_us(common_ns(event->start, trace.clock) - begin_ns)},
                   {"dur", to_us(to_ns(event->end) - to_ns(event->start))},
                   {"name", event->name},
                   {"cat", event->category}};
      for (const auto& [key, value] : event->args) json["args"][key] = value;
      append_line(text, json);
    }
  }
  return text;
}

std::string rank_facts_json(const RankTrace& trace) {
  return dump({{"rank", trace.rank},
               {"host", trace.host},
               {"local_rank", trace.local_rank},
               {"clock_offset_us", to_us(trace.clock.ahead_ns)},
               {"clock_error_us", to_us(trace.clock.error_ns)},
               {"dropped", trace.dropped}});
}

std::string trace_file_json(std::span<const std::string> rank_events, std::span<const std::string> rank_facts,
                            double begin_unix_s) {
  const auto join = [](std::span<const std::string> parts) {
    std::string text;
    for (const std::string& part : parts) text += (text.empty() ? "" : ",\n") + part;
    return text;
  };
  return base::cat("{\"displayTimeUnit\":\"ms\",\n\"otherData\":{\"format\":\"lockstep trace 1\",\"begin_unix_s\":",
                   Json(begin_unix_s).dump(), "},\n\"ranks\":[\n", join(rank_facts), "],\n\"traceEvents\":[\n",
                   join(rank_events), "]}\n");
}

}  // namespace lockstep::trace
