#pragma once
// The last operations of a communicator: the first tool for a hang.

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/core/backend/backend.h"

namespace lockstep {

/// A ring of the last operations. Costs a few stores an operation; written to a file only when something failed.
///
/// Thread safety: one thread at a time.
class Recorder {
 public:
  explicit Recorder(std::size_t capacity) : entries_(capacity == 0 ? 1 : capacity) {}

  void started(const Collective& collective) noexcept;
  void finished(std::uint64_t sequence) noexcept;
  /// Writes flight_<group>_rank<r>.json into `directory` (created if missing), atomically. Never throws.
  void dump(const std::string& directory, const std::string& group, const Backend& backend,
            const std::string& failure) const noexcept;

 private:
  struct Entry {
    std::uint64_t sequence = 0;
    std::uint64_t count = 0;
    std::int64_t started_ms = 0;   ///< coarse monotonic clock
    std::int64_t finished_ms = 0;  ///< 0 while in flight
    OpKind kind{};
    DType dtype{};
    ReduceOp op{};
    int root = 0;
    std::array<char, 64> label{};
  };
  std::string to_json(const std::string& group, const Backend& backend, const std::string& failure) const;

  std::vector<Entry> entries_;  // Operation s is entry s % size.
};

}  // namespace lockstep
