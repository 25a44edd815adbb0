#pragma once
// How the ranks of a group that forms wait for each other, and tell each other a value each.

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/store/store.h"

namespace lockstep {

/// Of all that ranks say to each other, on the way to a group and in it: ranks of builds in which it differs can't be
/// in one group, and are told so when they meet.
inline constexpr std::string_view kProtocol = "v1";

/// Throws UsageError where rank `peer` speaks another.
void check_protocol(const Meeting& meeting, int peer, std::string_view theirs);

/// The naps of a rank that waits for others to come: ever longer; what it has in flight elsewhere moves.
class Naps {
 public:
  explicit Naps(const Meeting& meeting) : meeting_(meeting) {}
  void nap();

 private:
  const Meeting& meeting_;
  std::chrono::microseconds length_{10};
};

/// Collective over the meeting's ranks: everyone's value, in rank order. `key` must be fresh in the store.
///
/// Cost: rank 0 reads p values and writes two; each other rank writes one value and reads two, so the store sees 4 p
///       operations however the ranks are spread (and polls, while they wait).
/// Throws TimeoutError that names the ranks that did not come, PeerError for one that gave up, UsageError where one was
/// told another world size or speaks another protocol; what `while_waiting` throws.
std::vector<std::string> exchange_values(Store& store, const Meeting& meeting, const std::string& key,
                                         std::string_view value);

}  // namespace lockstep
