#pragma once
// The last operations of a communicator: the first tool for a hang.

#include <array>
#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/backend/backend.h"

namespace lockstep {

/// A ring of the last operations. Costs a few stores an operation; written to a file only when something failed.
///
/// Thread safety: one thread at a time.
class Recorder {
 public:
  /// Keeps `capacity` operations and as many messages, rounded up to a power of two.
  explicit Recorder(std::size_t capacity) : operations_(std::bit_ceil(capacity)), messages_(std::bit_ceil(capacity)) {}

  void started(const Collective& collective) noexcept;
  void finished(std::uint64_t sequence) noexcept;
  void started(const Message& message) noexcept;
  void finished_message(std::uint64_t id) noexcept;
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
    int peer = 0;
    int tag = 0;
    bool has_label = false;
  };
  static_assert(sizeof(Entry) <= 64);
  using Label = std::array<char, 64>;

  /// The last entries of one numbering. Their number is a power of two, since a division is a good part of an entry's
  /// cost. Labels lie apart: few operations have one.
  struct Ring {
    explicit Ring(std::size_t size) : entries(size), labels(size) {}
    std::size_t place_of(std::uint64_t number) const noexcept { return number & (entries.size() - 1); }
    Entry& at(std::uint64_t number) noexcept { return entries[place_of(number)]; }

    std::vector<Entry> entries;
    std::vector<Label> labels;
  };
  static void begin(Ring& ring, std::uint64_t number, std::string_view label) noexcept;
  static void end(Entry& entry, std::uint64_t number) noexcept;
  std::string to_json(const std::string& group, const Backend& backend, const std::string& failure) const;

  Ring operations_;
  Ring messages_;
};

}  // namespace lockstep
