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

/// Takes the first word off.
std::string take_word(std::string& said) {
  const std::size_t space = said.find(' ');
  const std::string word = said.substr(0, space);
  said.erase(0, space == std::string::npos ? space : space + 1);
  return word;
}

/// What a rank said, without the protocol and the world size before it. Throws UsageError where it has others.
std::string value_of(std::string said, int rank, const Meeting& meeting) {
  check_protocol(meeting, rank, take_word(said));
  const std::string world_size = take_word(said);
  LS_REQUIRE(world_size == std::to_string(meeting.world_size), "rank ", meeting.rank, " group ", meeting.group,
             ": this rank was told a world size of ", meeting.world_size, ", rank ", rank, " one of ", world_size,
             "; start all ranks with one launcher");
  return said;
}

/// One exchange, seen by one rank. The table's place holds "+" and the table, or "-" and the rank that gave up first:
/// whoever comes first decides, so that either all see the table or all see that somebody left.
class Exchange {
 public:
  Exchange(Store& store, const Meeting& meeting, std::string key)
      : store_(store), meeting_(meeting), key_(std::move(key)), place_(key_ + "/all") {}

  std::vector<std::string> run(std::string_view value) {
    store_.set(key_of(key_, meeting_.rank), base::cat(kProtocol, ' ', meeting_.world_size, ' ', value));
    if (meeting_.rank != 0) {
      // Before the table, for which rank 0 would wait as long as it thinks that somebody is missing.
      value_of(get(key_of(key_, 0)), 0, meeting_);
      return unpack(get(place_).substr(1), meeting_.world_size);
    }
    std::vector<std::string> values = {std::string(value)};
    for (int rank = 1; rank < meeting_.world_size; ++rank) {
      values.push_back(value_of(get(key_of(key_, rank)), rank, meeting_));
    }
    check(store_.compare_and_set(place_, std::nullopt, "+" + pack(values)));
    return values;
  }

 private:
  std::string get(const std::string& name) {
    Naps naps(meeting_);
    try {
      for (;; naps.nap()) {
        const auto found = store_.try_get(name);
        if (found && (name != place_ || found->starts_with('+'))) return *found;
        // While others are missing as well, they are what to name.
        if (const auto decided = store_.try_get(place_); decided && missing().empty()) check(*decided);
        if (meeting_.deadline.passed()) time_out();
      }
    } catch (const Error&) {
      store_.compare_and_set(place_, std::nullopt, base::cat('-', meeting_.rank));
      throw;
    }
  }

  void check(const std::string& decided) const {
    if (decided.starts_with('+')) return;
    const int rank = std::stoi(decided.substr(1));
    throw PeerError(base::cat("rank ", meeting_.rank, "/", meeting_.world_size, " group ", meeting_.group, ": rank ",
                              rank, " gave up while the group formed; look at that rank's own output for the reason"),
                    rank);
  }

  std::string missing() {
    std::string ranks;
    for (int rank = 0; rank < meeting_.world_size; ++rank) {
      if (rank == meeting_.rank || store_.try_get(key_of(key_, rank))) continue;
      ranks += base::cat(ranks.empty() ? "" : ", ", rank);
    }
    return ranks;
  }

  [[noreturn]] void time_out() {
    throw TimeoutError(base::cat("rank ", meeting_.rank, "/", meeting_.world_size, " group ", meeting_.group,
                                 ": waited ", seconds(meeting_.deadline.timeout()), " s for rank(s) ", missing(),
                                 " to arrive; check that they were started and reach the store"));
  }

  Store& store_;
  const Meeting& meeting_;
  std::string key_;
  std::string place_;
};

}  // namespace

void check_protocol(const Meeting& meeting, int peer, std::string_view theirs) {
  LS_REQUIRE(theirs == kProtocol, "rank ", meeting.rank, " group ", meeting.group, ": this rank speaks protocol ",
             kProtocol, ", rank ", peer, " speaks '", theirs, "'; run the same build of Lockstep on all hosts");
}

void Naps::nap() {
  InFlightList& in_flight = InFlightList::of_this_thread();
  in_flight.progress_others(nullptr);
  if (meeting_.while_waiting) meeting_.while_waiting();
  std::this_thread::sleep_for(length_);
  length_ = std::min(length_ * 2, in_flight.empty() ? kLongest : kShort);
}

std::vector<std::string> exchange_values(Store& store, const Meeting& meeting, const std::string& key,
                                         std::string_view value) {
  return Exchange(store, meeting, key).run(value);
}

}  // namespace lockstep
