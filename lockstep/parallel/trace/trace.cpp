#include "lockstep/parallel/trace/trace.h"

#include "lockstep/core/base/check.h"

namespace lockstep {

Trace::Trace(std::size_t capacity) : capacity_(capacity) {
  LS_REQUIRE(capacity > 0, "Trace: capacity 0; expected room for at least one span");
}

void Trace::add(TraceEvent event) {
  const std::lock_guard lock(mutex_);
  if (events_.size() == capacity_) {
    events_.pop_front();
    ++dropped_;
  }
  events_.push_back(std::move(event));
}

Trace::Scope Trace::span(std::string name, const char* category) { return Scope(this, std::move(name), category); }

std::vector<TraceEvent> Trace::events() const {
  const std::lock_guard lock(mutex_);
  return {events_.begin(), events_.end()};
}

std::int64_t Trace::dropped() const {
  const std::lock_guard lock(mutex_);
  return dropped_;
}

void Trace::clear() {
  const std::lock_guard lock(mutex_);
  events_.clear();
  dropped_ = 0;
}

Trace::Scope::Scope(Trace* trace, std::string name, const char* category) : trace_(trace), event_{} {
  if (trace_ == nullptr) return;
  event_.name = std::move(name);
  event_.category = category;
  event_.start = Clock::now();
}

Trace::Scope::~Scope() {
  try {
    finish();
  } catch (...) {
    // Out of memory: a picture with a span less is no reason to end a run.
  }
}

Trace::Scope::Scope(Scope&& other) noexcept
    : trace_(std::exchange(other.trace_, nullptr)), event_(std::move(other.event_)) {}

void Trace::Scope::arg(std::string key, std::string value) {
  if (trace_ != nullptr) event_.args.emplace_back(std::move(key), std::move(value));
}

void Trace::Scope::finish() {
  if (trace_ == nullptr) return;
  event_.end = Clock::now();
  std::exchange(trace_, nullptr)->add(std::move(event_));
}

}  // namespace lockstep
