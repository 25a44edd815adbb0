#include "lockstep/parallel/trace/trace.h"

#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"

namespace lockstep {
namespace {

TraceEvent event_of(int number) {
  const Clock::time_point start{std::chrono::microseconds(number)};
  return {"event " + std::to_string(number), "compute", start, start + std::chrono::microseconds(1)};
}

TEST(Trace, KeepsTheLastOfMoreThanItHolds) {
  Trace trace(3);
  for (int i = 0; i < 3; ++i) trace.add(event_of(i));
  EXPECT_EQ(trace.dropped(), 0);
  EXPECT_EQ(trace.events().front().name, "event 0");
  for (int i = 3; i < 8; ++i) trace.add(event_of(i));
  EXPECT_EQ(trace.dropped(), 5);
  const std::vector<TraceEvent> events = trace.events();
  ASSERT_EQ(events.size(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(events[static_cast<std::size_t>(i)].name, event_of(5 + i).name);
  trace.clear();
  EXPECT_TRUE(trace.events().empty());
  EXPECT_EQ(trace.dropped(), 0);
  EXPECT_THROW(Trace(0), UsageError);
}

TEST(Trace, ASpanLastsAsLongAsItsBlock) {
  Trace trace;
  const Clock::time_point before = Clock::now();
  {
    Trace::Scope outer = trace.span("outer", "step");
    outer.arg("bytes", "12");
    const Trace::Scope inner = trace.span("inner", "compute");
    EXPECT_TRUE(trace.events().empty());
  }
  const Clock::time_point after = Clock::now();
  const std::vector<TraceEvent> events = trace.events();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].name, "inner");
  EXPECT_STREQ(events[0].category, "compute");
  EXPECT_EQ(events[1].name, "outer");
  EXPECT_EQ(events[1].args, (std::vector<std::pair<std::string, std::string>>{{"bytes", "12"}}));
  EXPECT_LE(before, events[1].start);
  EXPECT_LE(events[1].start, events[0].start);
  EXPECT_LE(events[0].start, events[0].end);
  EXPECT_LE(events[0].end, events[1].end);
  EXPECT_LE(events[1].end, after);
}

TEST(Trace, ASpanEndsOnce) {
  Trace trace;
  {
    Trace::Scope span = trace.span("once", "wait");
    span.finish();
    span.finish();
    span.arg("late", "yes");
    const Trace::Scope moved = std::move(span);
  }
  {
    Trace::Scope span = trace.span("moved", "wait");
    const Trace::Scope other = std::move(span);
  }
  ASSERT_EQ(trace.events().size(), 2u);
  EXPECT_TRUE(trace.events()[0].args.empty());
  EXPECT_EQ(trace.events()[1].name, "moved");
}

TEST(Trace, NoTraceRecordsNothing) {
  Trace::Scope span(nullptr, "nobody looks", "compute");
  span.arg("bytes", "1");
  span.finish();
}

TEST(Trace, TakesSpansOfManyThreads) {
  Trace trace(1000);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&trace] {
      for (int i = 0; i < 300; ++i) const Trace::Scope span = trace.span("span", "compute");
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(trace.events().size(), 1000u);
  EXPECT_EQ(trace.dropped(), 200);
}

}  // namespace
}  // namespace lockstep
