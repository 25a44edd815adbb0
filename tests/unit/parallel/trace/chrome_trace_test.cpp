#include "lockstep/parallel/trace/chrome_trace.h"

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace lockstep::trace {
namespace {

using ::testing::ElementsAre;
using Json = nlohmann::json;

Clock::time_point at(std::int64_t ns) { return Clock::time_point(Duration(ns)); }

TraceEvent event(std::string name, const char* category, std::int64_t start, std::int64_t end) {
  return {std::move(name), category, at(start), at(end)};
}

/// "name: event event" of each track.
std::vector<std::string> tracks_of(const std::vector<TraceEvent>& events) {
  std::vector<std::string> lines;
  for (const Track& track : assign_tracks(events)) {
    lines.push_back(track.name + ":");
    for (const TraceEvent* entry : track.events) lines.back() += " " + entry->name;
  }
  return lines;
}

TEST(ChromeTrace, TracksHaveAnOrderAndAreSortedByStart) {
  EXPECT_THAT(tracks_of({}), ElementsAre());
  EXPECT_THAT(tracks_of({event("z", "storage", 0, 1), event("w", "wait", 3, 4), event("b", "communication", 2, 3),
                         event("late", "compute", 5, 6), event("early", "compute", 1, 2), event("a", "disk", 0, 9),
                         event("s", "step", 0, 9)}),
              ElementsAre("step: s", "compute: early late", "wait: w", "communication: b", "disk: a", "storage: z"));
}

TEST(ChromeTrace, OverlappingCommunicationGetsTracksOfItsOwn) {
  // 0 and 1 overlap, 2 begins as 0 ends, 3 overlaps 1 and 2, 4 fits behind 1; 5 lies within 4.
  EXPECT_THAT(tracks_of({event("0", "communication", 0, 10), event("1", "communication", 5, 20),
                         event("2", "communication", 10, 18), event("3", "communication", 15, 30),
                         event("4", "communication", 20, 40), event("5", "communication", 22, 23)}),
              ElementsAre("communication: 0 2 4", "communication 2: 1 5", "communication 3: 3"));
}

TEST(ChromeTrace, ComputationMayLieWithinOther) {
  // b and c within a, d within c; e overlaps a without lying in it, f fits behind a.
  EXPECT_THAT(tracks_of({event("d", "compute", 6, 8), event("c", "compute", 5, 9), event("b", "compute", 0, 3),
                         event("a", "compute", 0, 10), event("e", "compute", 9, 12), event("f", "compute", 10, 11)}),
              ElementsAre("compute: a b c d f", "compute 2: e"));
}

TEST(ChromeTrace, ManyEventsStayOnOneTrack) {
  std::vector<TraceEvent> events;
  for (int i = 0; i < 20000; ++i) events.push_back(event("step", "step", i, i + 1));
  const std::vector<Track> tracks = assign_tracks(events);
  ASSERT_EQ(tracks.size(), 1u);
  EXPECT_EQ(tracks[0].events.size(), events.size());
}

TEST(ChromeTrace, ClocksAreBroughtToRank0s) {
  EXPECT_EQ(common_ns(at(1500), {}), 1500);
  EXPECT_EQ(common_ns(at(1500), {.ahead_ns = 400, .error_ns = 3}), 1100);
  EXPECT_EQ(common_ns(at(1500), {.ahead_ns = -400, .error_ns = 3}), 1900);
  RankTrace rank;
  EXPECT_EQ(first_ns(rank), std::numeric_limits<std::int64_t>::max());
  rank.clock.ahead_ns = 10;
  rank.events = {event("b", "compute", 200, 300), event("a", "compute", 110, 400)};
  EXPECT_EQ(first_ns(rank), 100);
}

TEST(ChromeTrace, OneKernelIsOneClock) {
  EXPECT_EQ(settle_offset({900, 900}, true), ClockOffset{});
  EXPECT_EQ(settle_offset({-900, 901}, true), ClockOffset{});
  EXPECT_EQ(settle_offset({900, 899}, true), (ClockOffset{900, 899}));  // a time namespace
  EXPECT_EQ(settle_offset({900, 901}, false), (ClockOffset{900, 901}));
}

/// Of two ranks, the second of which has a clock that is 1 s ahead.
Json two_ranks() {
  RankTrace first{.rank = 0, .local_rank = 0, .host = "a", .clock = {}, .dropped = 0, .events = {}};
  first.events = {event("forward", "compute", 5'000, 7'500), event("step 1", "step", 5'000, 9'001)};
  RankTrace second{
      .rank = 1, .local_rank = 4, .host = "b", .clock = {1'000'000'000, 2'500}, .dropped = 3, .events = {}};
  second.events = {event("bucket 0", "communication", 1'000'006'000, 1'000'006'250)};
  second.events[0].args = {{"bytes", "4096"}, {"parameters", "fc1.weight"}};
  const std::int64_t begin = std::min(first_ns(first), first_ns(second));
  const std::vector<std::string> events = {rank_events_json(first, begin), rank_events_json(second, begin)};
  const std::vector<std::string> facts = {rank_facts_json(first), rank_facts_json(second)};
  return Json::parse(trace_file_json(events, facts, 1234.5));
}

constexpr const char* kFile = R"json({
    "displayTimeUnit": "ms",
    "otherData": {"format": "lockstep trace 1", "begin_unix_s": 1234.5},
    "ranks": [
      {"rank": 0, "host": "a", "local_rank": 0, "clock_offset_us": 0.0, "clock_error_us": 0.0, "dropped": 0},
      {"rank": 1, "host": "b", "local_rank": 4, "clock_offset_us": 1e6, "clock_error_us": 2.5, "dropped": 3}],
    "traceEvents": [
      {"ph": "M", "pid": 0, "tid": 0, "name": "process_name", "args": {"name": "rank 0 (a, local rank 0)"}},
      {"ph": "M", "pid": 0, "tid": 0, "name": "process_sort_index", "args": {"sort_index": 0}},
      {"ph": "M", "pid": 0, "tid": 1, "name": "thread_name", "args": {"name": "step"}},
      {"ph": "M", "pid": 0, "tid": 1, "name": "thread_sort_index", "args": {"sort_index": 1}},
      {"ph": "X", "pid": 0, "tid": 1, "ts": 0.0, "dur": 4.001, "name": "step 1", "cat": "step"},
      {"ph": "M", "pid": 0, "tid": 2, "name": "thread_name", "args": {"name": "compute"}},
      {"ph": "M", "pid": 0, "tid": 2, "name": "thread_sort_index", "args": {"sort_index": 2}},
      {"ph": "X", "pid": 0, "tid": 2, "ts": 0.0, "dur": 2.5, "name": "forward", "cat": "compute"},
      {"ph": "M", "pid": 1, "tid": 0, "name": "process_name", "args": {"name": "rank 1 (b, local rank 4)"}},
      {"ph": "M", "pid": 1, "tid": 0, "name": "process_sort_index", "args": {"sort_index": 1}},
      {"ph": "M", "pid": 1, "tid": 1, "name": "thread_name", "args": {"name": "communication"}},
      {"ph": "M", "pid": 1, "tid": 1, "name": "thread_sort_index", "args": {"sort_index": 1}},
      {"ph": "X", "pid": 1, "tid": 1, "ts": 1.0, "dur": 0.25, "name": "bucket 0", "cat": "communication",
       "args": {"bytes": "4096", "parameters": "fc1.weight"}}]})json";

TEST(ChromeTrace, TheFileIsOfTheFormat) { EXPECT_EQ(two_ranks(), Json::parse(kFile)); }

TEST(ChromeTrace, NamesMayHoldAnyBytes) {
  RankTrace rank;
  rank.host = "h\"o\\st";
  rank.events = {event("quote \" line \n byte \xff", "compute", 0, 1)};
  const std::vector<std::string> events = {rank_events_json(rank, 0)};
  const std::vector<std::string> facts = {rank_facts_json(rank)};
  const Json file = Json::parse(trace_file_json(events, facts, 0));
  EXPECT_EQ(file["traceEvents"].back()["name"], "quote \" line \n byte \xef\xbf\xbd");
  EXPECT_EQ(file["ranks"][0]["host"], "h\"o\\st");
}

}  // namespace
}  // namespace lockstep::trace
