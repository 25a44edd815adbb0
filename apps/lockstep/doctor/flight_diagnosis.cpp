// Collectives of a group start in one order on every rank and complete in that order. So each rank is at a position:
// the newest operation it started and the newest it saw complete, and the operation to name is the first which not all
// have started, or else the first which not all saw complete. What a rank started only after another had given up does
// not count: a slow rank arrives at the operation in which it was missed, and its record looks like the others'.

#include "apps/lockstep/doctor/flight_diagnosis.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "apps/lockstep/doctor/flight_messages.h"
#include "lockstep/core/base/check.h"

namespace lockstep::doctor {
namespace {

using Ranks = std::vector<int>;

/// Where a rank stood among the collectives.
struct Position {
  const FlightRecord* record = nullptr;
  std::uint64_t started = 0;              ///< newest that it started before anyone gave up; 0: none
  std::uint64_t finished = 0;             ///< newest that it saw complete
  const FlightOperation* last = nullptr;  ///< the operation `started`
  const FlightOperation* late = nullptr;  ///< the first that it started after somebody had given up
};

std::vector<Position> positions_of(const FlightGroup& group) {
  std::vector<Position> positions;
  for (const FlightRecord& record : group.records) {
    Position& position = positions.emplace_back();
    position.record = &record;
    for (const FlightOperation& operation : record.collectives) {
      if (group.in_time(operation)) {
        position.started = operation.sequence;
        position.last = &operation;
      } else if (position.late == nullptr) {
        position.late = &operation;
      }
      if (operation.finished_ms != 0) position.finished = operation.sequence;
    }
  }
  return positions;
}

const FlightOperation* find(const FlightRecord& record, std::uint64_t sequence) {
  const auto found = std::ranges::lower_bound(record.collectives, sequence, {}, &FlightOperation::sequence);
  return found != record.collectives.end() && found->sequence == sequence ? &*found : nullptr;
}

Finding make(const FlightGroup& group, std::string_view what, Ranks ranks, std::string text) {
  Finding out;
  out.finding = what;
  out.group = group.name;
  out.world_size = group.world_size;
  out.ranks = std::move(ranks);
  out.text = std::move(text);
  return out;
}

/// "1.2 s before the others gave up"; "" where times say nothing.
std::string before_giving_up(const FlightGroup& group, const FlightRecord& record, std::int64_t time_ms) {
  if (!group.same_clock) return "";
  std::optional<std::int64_t> others;
  for (const FlightRecord& other : group.records) {
    if (other.rank != record.rank) others = std::min(others.value_or(other.written_ms), other.written_ms);
  }
  if (!others || *others < time_ms) return "";
  return base::cat(" ", duration_text(*others - time_ms), " before the others gave up");
}

/// "rank 2 was last in broadcast #1041 (finished 14.2 s before the others gave up)".
std::string last_seen(const FlightGroup& group, const Position& position) {
  const std::string rank = base::cat("rank ", position.record->rank, " was last in ");
  if (position.last == nullptr) return rank + "no operation at all";
  const FlightOperation& last = *position.last;
  const std::string name = base::cat(last.kind, " #", last.sequence);
  if (last.finished_ms != 0) {
    return base::cat(rank, name, " (finished", before_giving_up(group, *position.record, last.finished_ms), ")");
  }
  return base::cat(rank, name, " (started", before_giving_up(group, *position.record, last.started_ms),
                   ", not finished)");
}

std::string last_seen(const FlightGroup& group, const std::vector<const Position*>& positions) {
  constexpr std::size_t kShown = 3;  // The table has them all.
  std::string text;
  for (std::size_t i = 0; i < std::min(positions.size(), kShown); ++i) {
    text += base::cat(i == 0 ? "" : ", ", last_seen(group, *positions[i]));
  }
  return text;
}

/// Who did what in the operation at which the group stood still.
struct Standstill {
  std::uint64_t sequence = 0;
  const FlightOperation* operation = nullptr;
  Ranks waiting;   ///< started it, and did not see it complete
  Ranks finished;  ///< saw it complete
  std::vector<const Position*> never;
  std::vector<const Position*> late;  ///< not before others had given up
};

Ranks ranks_of(const std::vector<const Position*>& positions) {
  Ranks ranks;
  for (const Position* position : positions) ranks.push_back(position->record->rank);
  return ranks;
}

std::optional<Standstill> standstill_of(const std::vector<Position>& positions) {
  const std::uint64_t least = std::ranges::min(positions, {}, &Position::started).started;
  const std::uint64_t most = std::ranges::max(positions, {}, &Position::started).started;
  Standstill out;
  out.sequence = (least < most ? least : std::ranges::min(positions, {}, &Position::finished).finished) + 1;
  if (out.sequence > most) return std::nullopt;
  for (const Position& position : positions) {
    if (position.started < out.sequence) {
      (position.late == nullptr ? out.never : out.late).push_back(&position);
      continue;
    }
    (position.finished < out.sequence ? out.waiting : out.finished).push_back(position.record->rank);
    if (out.operation == nullptr) out.operation = find(*position.record, out.sequence);
  }
  // A ring too short for what is in flight has lost the entry itself.
  return out.operation == nullptr ? std::nullopt : std::optional(out);
}

Finding about(const FlightGroup& group, const Standstill& at, std::string_view what, Ranks ranks, std::string text) {
  Finding out = make(group, what, std::move(ranks), std::move(text));
  out.waiting = at.waiting;
  out.kind = at.operation->kind;
  out.sequence = at.sequence;
  return out;
}

/// ", in which ranks 0, 1 waited and which rank 3 finished".
std::string who_waited(const Standstill& at) {
  std::string text;
  if (!at.waiting.empty()) text += ", in which " + rank_list(at.waiting) + " waited";
  if (!at.finished.empty()) {
    text += base::cat(at.waiting.empty() ? "," : " and", " which ", rank_list(at.finished), " finished");
  }
  return text;
}

Finding never_started(const FlightGroup& group, const Standstill& at) {
  const Ranks ranks = ranks_of(at.never);
  std::string text = base::cat(rank_list(ranks), " never started ", describe(*at.operation), who_waited(at), "; ",
                               last_seen(group, at.never));
  const std::uint64_t before = at.sequence - 1;
  const bool open =
      std::ranges::any_of(at.never, [&](const Position* position) { return position->finished < before; }) &&
      at.finished.empty() && std::ranges::all_of(group.records, [&](const FlightRecord& record) {
        return std::ranges::all_of(record.collectives, [&](const FlightOperation& operation) {
          return operation.sequence < before || operation.finished_ms == 0;
        });
      });
  if (open && before != 0) text += base::cat("; no rank is known to have finished #", before);
  return about(group, at, "never_started", ranks, std::move(text));
}

Finding late(const FlightGroup& group, const Standstill& at) {
  const Ranks ranks = ranks_of(at.late);
  const FlightOperation& came = *at.late.front()->late;
  const FlightRecord& first = std::ranges::min(group.records, {}, &FlightRecord::written_ms);
  std::string text = rank_list(ranks) + " came ";
  if (came.sequence != at.sequence || !same_call(came, *at.operation)) {
    text += base::cat("with ", describe(came), " instead of ");
  } else {
    text += "to ";
  }
  text +=
      base::cat(describe(*at.operation), who_waited(at), ", only ", duration_text(came.started_ms - group.gave_up_ms),
                " after rank ", first.rank, " had given up; ", last_seen(group, at.late));
  return about(group, at, "late", ranks, std::move(text));
}

/// All have started it, and it did not end for all.
Finding unfinished(const FlightGroup& group, const Standstill& at) {
  const std::string all = group.world_size == 1 ? "the only rank" : base::cat("all ", group.world_size, " ranks");
  std::string text = base::cat(all, " started ", describe(*at.operation));
  if (!at.finished.empty()) {
    text += base::cat("; ", rank_list(at.finished), " finished it, ", rank_list(at.waiting), " did not: slow or ",
                      "stopped after starting it");
    return about(group, at, "unfinished", at.waiting, std::move(text));
  }
  text += group.world_size == 1 ? " and did not finish it" : " and none finished it";
  const auto start_of = [&](const FlightRecord& record) {
    const FlightOperation* const operation = find(record, at.sequence);
    return operation == nullptr ? std::int64_t{0} : operation->started_ms;
  };
  const FlightRecord& first = std::ranges::min(group.records, {}, start_of);
  const FlightRecord& last = std::ranges::max(group.records, {}, start_of);
  if (group.same_clock && start_of(first) != 0 && start_of(last) > start_of(first)) {
    text += base::cat("; rank ", last.rank, " started it last, ", duration_text(start_of(last) - start_of(first)),
                      " after rank ", first.rank);
  }
  return about(group, at, "unfinished", at.waiting, std::move(text));
}

Finding no_record(const FlightGroup& group, const Ranks& absent, const std::optional<Standstill>& at) {
  std::string text = base::cat(rank_list(absent), " left no record: ", absent.size() == 1 ? "it was" : "they were",
                               " killed, or still run", absent.size() == 1 ? "s" : "", ", or never failed");
  if (!at) return make(group, "no_record", absent, std::move(text));
  if (!at->waiting.empty()) {
    text += base::cat("; ", rank_list(at->waiting), " waited in ", describe(*at->operation));
    if (!at->finished.empty()) text += base::cat(", which ", rank_list(at->finished), " finished");
  }
  return about(group, *at, "no_record", absent, std::move(text));
}

void add_standstill(const FlightGroup& group, const std::vector<Position>& positions, std::uint64_t before,
                    std::vector<Finding>& out) {
  auto at = standstill_of(positions);
  if (at && at->sequence >= before) at.reset();
  const bool somebody_missing = at && (!at->never.empty() || !at->late.empty());
  if (!group.absent.empty()) out.push_back(no_record(group, group.absent, somebody_missing ? std::nullopt : at));
  if (!at) return;
  if (!at->never.empty()) out.push_back(never_started(group, *at));
  if (!at->late.empty()) out.push_back(late(group, *at));
  if (!somebody_missing && group.absent.empty()) out.push_back(unfinished(group, *at));
}

/// The first operation that ranks called differently.
std::optional<Finding> mismatch(const FlightGroup& group) {
  std::map<std::uint64_t, std::vector<std::pair<const FlightOperation*, Ranks>>> calls;
  for (const FlightRecord& record : group.records) {
    for (const FlightOperation& operation : record.collectives) {
      if (!group.in_time(operation)) continue;
      auto& variants = calls[operation.sequence];
      const auto same =
          std::ranges::find_if(variants, [&](const auto& variant) { return same_call(*variant.first, operation); });
      if (same != variants.end()) {
        same->second.push_back(record.rank);
      } else {
        variants.push_back({&operation, {record.rank}});
      }
    }
  }
  const auto differs = std::ranges::find_if(calls, [](const auto& call) { return call.second.size() > 1; });
  if (differs == calls.end()) return std::nullopt;
  auto& [sequence, variants] = *differs;
  std::ranges::stable_sort(variants, std::ranges::greater{}, [](const auto& variant) { return variant.second.size(); });
  Ranks others;
  std::string text = base::cat("the ranks called different operations as #", sequence, ": ");
  constexpr std::size_t kShown = 4;
  for (std::size_t i = 0; i < variants.size(); ++i) {
    const auto& [operation, ranks] = variants[i];
    if (i < kShown) text += base::cat(i == 0 ? "" : "; ", rank_list(ranks), " ", describe_call(*operation));
    if (i != 0) others.insert(others.end(), ranks.begin(), ranks.end());
  }
  if (variants.size() > kShown) text += base::cat("; and ", variants.size() - kShown, " others");
  std::ranges::sort(others);
  Finding out = make(group, "mismatch", std::move(others), std::move(text));
  out.waiting = variants.front().second;
  out.kind = variants.front().first->kind;
  out.sequence = sequence;
  return out;
}

/// Who ended the group by abort(), or by an error that was its alone, and why, as the text of an AbortedError says it:
/// "...: aborted: ...: rank 1 ended the group: CAUSE", or "...: aborted: CAUSE" where it is the writer itself.
struct Abort {
  int rank = 0;
  std::string cause;
};

std::optional<Abort> abort_of(const FlightRecord& record) {
  constexpr std::string_view kAborted = ": aborted: ";
  constexpr std::string_view kRank = "rank ";
  constexpr std::string_view kEnded = " ended the group: ";
  const std::string_view text = record.failure;
  const auto at = text.find(kAborted);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view rest = text.substr(at + kAborted.size());
  const auto ended = rest.find(kEnded);
  const auto word = ended == std::string_view::npos ? ended : rest.substr(0, ended).rfind(kRank);
  if (word != std::string_view::npos) {
    int rank = 0;
    const char* const first = rest.data() + word + kRank.size();
    const char* const last = rest.data() + ended;
    const auto [end, error] = std::from_chars(first, last, rank);
    if (error == std::errc() && end == last && rank >= 0 && rank < record.world_size) {
      return Abort{rank, std::string(rest.substr(ended + kEnded.size()))};
    }
  }
  return Abort{record.rank, std::string(rest)};
}

/// Where every rank failed of one abort.
std::optional<Finding> aborted(const FlightGroup& group) {
  std::optional<Abort> first;
  for (const FlightRecord& record : group.records) {
    const auto abort = abort_of(record);
    if (abort && !first) first = abort;
  }
  if (!first) return std::nullopt;
  const bool all = std::ranges::all_of(group.records, [&](const FlightRecord& record) {
    return record.rank == first->rank || abort_of(record).has_value();
  });
  if (!all) return std::nullopt;
  return make(group, "aborted", {first->rank},
              base::cat("rank ", first->rank, " ended the group, the others followed; its cause: ", first->cause));
}

/// Records that no single run can have left.
std::optional<Finding> different_runs(const FlightGroup& group) {
  const FlightRecord* done = nullptr;
  const FlightOperation* newest = nullptr;
  const auto last_of = [](const FlightRecord& record) {
    return record.collectives.empty() ? 0 : record.collectives.back().sequence;
  };
  for (const FlightRecord& record : group.records) {
    for (const FlightOperation& operation : record.collectives) {
      if (operation.finished_ms == 0 || !takes_all_ranks(operation)) continue;
      if (newest != nullptr && operation.sequence <= newest->sequence) continue;
      done = &record;
      newest = &operation;
    }
  }
  if (newest == nullptr) return std::nullopt;
  Ranks behind;
  for (const FlightRecord& record : group.records) {
    if (last_of(record) < newest->sequence) behind.push_back(record.rank);
  }
  if (behind.empty()) return std::nullopt;
  const bool one = behind.size() == 1;
  std::string text =
      base::cat("the files are of different runs: rank ", done->rank, " finished ", describe(*newest),
                ", which takes all ranks, ", "but the ", one ? "record of " : "records of ", rank_list(behind),
                one ? " ends" : " end", " before it; remove the older files and look again");
  Finding out = make(group, "different_runs", std::move(behind), std::move(text));
  out.kind = newest->kind;
  out.sequence = newest->sequence;
  return out;
}

Finding nothing(const FlightGroup& group) {
  const FlightRecord& first = std::ranges::min(group.records, {}, &FlightRecord::written_ms);
  std::string text = "no rank is missing and no operation is unfinished";
  if (!first.failure.empty()) text += base::cat("; rank ", first.rank, " failed with: ", first.failure);
  return make(group, "nothing", {}, std::move(text));
}

void add_notes(const FlightGroup& group, std::vector<Finding>& out) {
  if (!group.same_clock) {
    out.push_back(make(group, "different_clocks", {},
                       "the times in the files do not fit together: they may come from different hosts or runs; time "
                       "differences are left out"));
  }
  for (const FlightRecord& spare : group.spare) {
    out.push_back(
        make(group, "spare_record", {spare.rank},
             base::cat("rank ", spare.rank, " has more than one record; the older one was left out: ", spare.file)));
  }
}

}  // namespace

std::vector<Finding> diagnose(const FlightGroup& group) {
  std::vector<Finding> out;
  if (auto runs = different_runs(group)) {
    out.push_back(*std::move(runs));
  } else if (auto abort = aborted(group)) {
    Ranks absent = group.absent;
    std::erase(absent, abort->ranks.front());
    out.push_back(*std::move(abort));
    if (!absent.empty()) out.push_back(no_record(group, absent, std::nullopt));
  } else {
    const std::vector<Position> positions = positions_of(group);
    const auto differs = mismatch(group);
    if (differs) out.push_back(*differs);
    add_standstill(group, positions, differs ? differs->sequence : std::uint64_t{0} - 1, out);
    std::vector<Finding> messages = unmatched_messages(group);
    // That all are in a collective is seldom the reason where one of them waits for a message.
    const auto at = std::ranges::find(out, "unfinished", &Finding::finding);
    out.insert(at, std::make_move_iterator(messages.begin()), std::make_move_iterator(messages.end()));
  }
  if (out.empty()) out.push_back(nothing(group));
  add_notes(group, out);
  return out;
}

}  // namespace lockstep::doctor
