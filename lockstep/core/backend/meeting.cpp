#include "lockstep/core/backend/meeting.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <thread>

#include "lockstep/core/backend/in_flight.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/error.h"

namespace lockstep {
namespace {

constexpr std::chrono::microseconds kLongest{2000};
constexpr std::chrono::microseconds kShort{100};  // Others may wait for each piece of what is in flight here.

std::string key_of(const std::string& key, int rank) { return base::cat(key, "/", rank); }

/// The table of all values: the size of each, as eight bytes, before it.
std::string pack(const std::vector<std::string>& values) {
  std::string table;
  for (const std::string& value : values) {
    const std::uint64_t size = value.size();
    table.append(reinterpret_cast<const char*>(&size), sizeof size);
    table += value;
  }
  return table;
}

std::vector<std::string> unpack(const std::string& table, int world_size) {
  std::vector<std::string> values;
  std::size_t at = 0;
  for (int rank = 0; rank < world_size; ++rank) {
    std::uint64_t size = 0;
    LS_CHECK(at + sizeof size <= table.size(), "a table of ", table.size(), " bytes ends before rank ", rank);
    std::memcpy(&size, table.data() + at, sizeof size);
    at += sizeof size;
    LS_CHECK(size <= table.size() - at, "rank ", rank, " of a table claims ", size, " bytes");
    values.push_back(table.substr(at, size));
    at += size;
  }
  return values;
}

[[noreturn]] void time_out(Store& store, const Meeting& meeting, const std::string& key) {
  std::string missing;
  for (int rank = 0; rank < meeting.world_size; ++rank) {
    if (rank == meeting.rank || store.try_get(key_of(key, rank))) continue;
    missing += base::cat(missing.empty() ? "" : ", ", rank);
  }
  throw TimeoutError(base::cat("rank ", meeting.rank, "/", meeting.world_size, " group ", meeting.group, ": waited ",
                               seconds(meeting.deadline.timeout()), " s for rank(s) ", missing,
                               " to arrive; check that they were started and reach the store"));
}

}  // namespace

void Naps::nap() {
  InFlightList& in_flight = InFlightList::of_this_thread();
  in_flight.progress_others(nullptr);
  if (meeting_.while_waiting) meeting_.while_waiting();
  std::this_thread::sleep_for(length_);
  length_ = std::min(length_ * 2, in_flight.empty() ? kLongest : kShort);
}

std::vector<std::string> exchange_values(Store& store, const Meeting& meeting, const std::string& key,
                                         std::string_view value) {
  const auto get = [&](const std::string& name) {
    std::optional<std::string> found;
    for (Naps naps(meeting); !(found = store.try_get(name)); naps.nap()) {
      if (meeting.deadline.passed()) time_out(store, meeting, key);
    }
    return *found;
  };
  const std::string table_key = base::cat(key, "/all");
  store.set(key_of(key, meeting.rank), value);
  if (meeting.rank != 0) {
    return unpack(get(table_key), meeting.world_size);
  }
  std::vector<std::string> values = {std::string(value)};
  for (int rank = 1; rank < meeting.world_size; ++rank) values.push_back(get(key_of(key, rank)));
  store.set(table_key, pack(values));
  return values;
}

}  // namespace lockstep
