#include "apps/lockstep/doctor/flight_messages.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

#include "lockstep/core/base/check.h"

namespace lockstep::doctor {
namespace {

bool is_send(const FlightOperation& message) { return message.kind == "send"; }

/// True where the record still has its rank's first message, and so all of them.
bool has_all_messages(const FlightRecord& record) {
  return record.messages.empty() || record.messages.front().sequence == 1;
}

/// What `record` says of its messages that could be `message`'s counterpart, which `asker` waited for.
struct Counterparts {
  std::size_t in_time = 0;
  const FlightOperation* late = nullptr;  ///< the first that began only after `asker` had given up
  bool any_source = false;                ///< some are receives from any rank: they may have taken others
};

Counterparts counterparts_of(const FlightGroup& group, const FlightRecord& asker, const FlightOperation& message,
                             const FlightRecord& record) {
  Counterparts out;
  for (const FlightOperation& other : record.messages) {
    if (other.tag != message.tag || is_send(other) == is_send(message)) continue;
    if (other.peer != asker.rank && other.peer != kAnyPeer) continue;
    out.any_source = out.any_source || other.peer == kAnyPeer;
    if (group.same_clock && other.finished_ms == 0 && other.started_ms > asker.written_ms) {
      if (out.late == nullptr) out.late = &other;
    } else {
      ++out.in_time;
    }
  }
  return out;
}

/// How many messages of the same direction, peer and tag the rank began before `message`.
std::size_t position_of(const FlightRecord& record, const FlightOperation& message) {
  return static_cast<std::size_t>(std::ranges::count_if(record.messages, [&](const FlightOperation& other) {
    return other.sequence < message.sequence && other.kind == message.kind && other.peer == message.peer &&
           other.tag == message.tag;
  }));
}

bool receives_from_any(const FlightRecord& record, std::int64_t tag) {
  return std::ranges::any_of(record.messages, [&](const FlightOperation& message) {
    return !is_send(message) && message.peer == kAnyPeer && message.tag == tag;
  });
}

Finding make(const FlightGroup& group, const FlightRecord& asker, const FlightOperation& message,
             std::vector<int> ranks, std::string text) {
  Finding out;
  out.finding = "unmatched_message";
  out.group = group.name;
  out.world_size = group.world_size;
  out.ranks = std::move(ranks);
  out.waiting = {asker.rank};
  out.kind = message.kind;
  out.sequence = message.sequence;
  out.text = std::move(text);
  return out;
}

std::string waited(const FlightRecord& asker, const FlightOperation& message) {
  return base::cat("rank ", asker.rank, " waited in ", describe(message));
}

/// "a message with tag 7 to rank 0"
std::string wanted(const FlightRecord& asker, const FlightOperation& message) {
  return base::cat("a message with tag ", message.tag, is_send(message) ? " from rank " : " to rank ", asker.rank);
}

/// A message to or from one rank.
void judge(const FlightGroup& group, const FlightRecord& asker, const FlightOperation& message,
           std::vector<Finding>& out) {
  const FlightRecord* const peer = group.record_of(message.peer);
  if (peer == nullptr) {
    out.push_back(make(group, asker, message, {message.peer},
                       base::cat(waited(asker, message), ", and rank ", message.peer, " left no record")));
    return;
  }
  const Counterparts there = counterparts_of(group, asker, message, *peer);
  const bool counts =
      has_all_messages(asker) && has_all_messages(*peer) && !there.any_source && !receives_from_any(asker, message.tag);
  const std::size_t position = position_of(asker, message);
  if (there.in_time > (counts ? position : 0)) return;
  const char* const verb = is_send(message) ? " received " : " sent ";
  std::string text = base::cat("rank ", message.peer);
  if (there.late != nullptr) {
    text += base::cat(verb, wanted(asker, message), " only ", duration_text(there.late->started_ms - asker.written_ms),
                      " after that had given up");
  } else if (there.in_time != 0) {
    text +=
        base::cat(verb, "only ", there.in_time, " with tag ", message.tag,
                  is_send(message) ? " from rank " : " to rank ", asker.rank, ", and this is number ", position + 1);
  } else if (has_all_messages(*peer)) {
    text += base::cat(" never", verb, wanted(asker, message));
  } else {
    text += base::cat(verb, "no such message as far as its record goes back (to message #",
                      peer->messages.front().sequence, ")");
  }
  out.push_back(make(group, asker, message, {message.peer}, base::cat(text, "; ", waited(asker, message))));
}

/// A receive from any rank: it can be said to wait for nothing only where all that was sent to it is known and taken.
void judge_any(const FlightGroup& group, const FlightRecord& asker, const FlightOperation& message,
               std::vector<Finding>& out) {
  if (!group.absent.empty() || !std::ranges::all_of(group.records, has_all_messages)) return;
  std::size_t sent = 0;
  for (const FlightRecord& record : group.records) sent += counterparts_of(group, asker, message, record).in_time;
  const auto taken = std::ranges::count_if(asker.messages, [&](const FlightOperation& other) {
    return !is_send(other) && other.tag == message.tag && other.finished_ms != 0;
  });
  if (sent > static_cast<std::size_t>(taken)) return;
  out.push_back(make(group, asker, message, {},
                     base::cat("no rank sent ", wanted(asker, message),
                               taken == 0 ? "; " : " beyond those it received; ", waited(asker, message))));
}

}  // namespace

std::vector<Finding> unmatched_messages(const FlightGroup& group) {
  std::vector<Finding> out;
  for (const FlightRecord& record : group.records) {
    std::set<std::tuple<std::string, int, std::int64_t>> told;  // The first of a kind is enough.
    for (const FlightOperation& message : record.messages) {
      if (message.finished_ms != 0 || told.contains({message.kind, message.peer, message.tag})) continue;
      const std::size_t before = out.size();
      if (message.peer != kAnyPeer) {
        judge(group, record, message, out);
      } else if (!is_send(message)) {
        judge_any(group, record, message, out);
      }
      if (out.size() != before) told.insert({message.kind, message.peer, message.tag});
    }
  }
  return out;
}

}  // namespace lockstep::doctor
