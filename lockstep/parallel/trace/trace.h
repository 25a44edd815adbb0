#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/core/base/deadline.h"

namespace lockstep {

class ProcessGroup;

/// A named span of time of this rank.
struct TraceEvent {
  std::string name;         ///< "forward", "backward", "bucket 2", "optimizer", "step 12"
  const char* category;     ///< a literal: "step", "compute", "communication" or "wait"; which track shows it
  Clock::time_point start;  ///< lockstep's Clock, of this host
  Clock::time_point end;    ///< not before start
  std::vector<std::pair<std::string, std::string>> args = {};  ///< what a viewer shows of it: bytes, parameters ...
};

/// What this rank did when: spans, kept in memory until write_trace() makes one file of all ranks'. Bounded: when it is
/// full, the oldest span goes for each new one.
///
/// Who records takes a `Trace*` that is null where nobody looks, which costs some 4 ns. A span costs about 0.3 us.
/// Thread safety: all functions may be called from any thread. Lifetime: it outlives its Scopes and those that record.
class Trace {
 public:
  /// Throws UsageError for a capacity of 0.
  explicit Trace(std::size_t capacity = 1 << 16);

  void add(TraceEvent event);

  class Scope;
  /// A span from now until the Scope is destroyed.
  [[nodiscard]] Scope span(std::string name, const char* category);

  /// In the order in which they were added, which is that of their ends where Scopes add them.
  std::vector<TraceEvent> events() const;
  /// Spans that had to go.
  std::int64_t dropped() const;
  void clear();

 private:
  const std::size_t capacity_;
  mutable std::mutex mutex_;
  std::deque<TraceEvent> events_;
  std::int64_t dropped_ = 0;
};

/// A span that ends where its block does, or at finish(). Thread safety: one thread; the Trace's is its own.
class Trace::Scope {
 public:
  /// Begins now. A null trace records nothing.
  Scope(Trace* trace, std::string name, const char* category);
  /// Ends the span, unless finish() did.
  ~Scope();
  Scope(Scope&& other) noexcept;
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
  Scope& operator=(Scope&&) = delete;

  /// Adds to the span's args.
  void arg(std::string key, std::string value);
  /// Ends the span now; later calls do nothing.
  void finish();

 private:
  Trace* trace_;
  TraceEvent event_;
};

/// Collective: gathers all ranks' spans at rank 0, which brings them to its own clock and writes `file` in Chrome's
/// trace event format (JSON), for Perfetto (ui.perfetto.dev) or chrome://tracing. docs/formats/trace.md has the fields.
///
/// Clocks of different hosts are compared by messages while this runs, and drift apart by some 0.05 ms a second: call
/// it soon after what it shows. The file is written beside and renamed: on failure it is what it was.
/// Throws, on all ranks alike, SystemError that names `file`; and what ProcessGroup throws.
void write_trace(ProcessGroup& group, const Trace& trace, const std::string& file);

}  // namespace lockstep
