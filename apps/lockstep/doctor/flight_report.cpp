#include "apps/lockstep/doctor/flight_report.h"

#include <algorithm>
#include <array>
#include <ostream>

#include <nlohmann/json.hpp>

#include "lockstep/core/base/check.h"

namespace lockstep::doctor {
namespace {

using Json = nlohmann::ordered_json;
using Row = std::array<std::string, 4>;

constexpr std::size_t kFailureColumns = 80;
constexpr std::size_t kOperationColumns = 40;

// Whatever bytes a file has in its strings, the line is valid UTF-8.
std::string line_of(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U; }

std::size_t columns_of(const std::string& text) {
  return static_cast<std::size_t>(std::ranges::count_if(text, [](char byte) { return !continues(byte); }));
}

std::string name_of(const FlightOperation& operation) {
  std::string text = base::cat(operation.kind, " #", operation.sequence);
  if (operation.kind == "send" || operation.kind == "recv") {
    text += operation.kind == "send" ? " to " : " from ";
    text += operation.peer == kAnyPeer ? "any" : std::to_string(operation.peer);
    text += base::cat(" tag ", operation.tag);
  }
  return text;
}

/// The first collective after the last complete one, or else the first message that is not; then how many more.
std::string in_flight(const FlightRecord& record, std::uint64_t finished) {
  std::vector<const FlightOperation*> open;
  for (const FlightOperation& operation : record.collectives) {
    if (operation.sequence > finished) open.push_back(&operation);
  }
  for (const FlightOperation& message : record.messages) {
    if (message.finished_ms == 0) open.push_back(&message);
  }
  if (open.empty()) return "-";
  const std::int64_t since = std::max<std::int64_t>(record.written_ms - open.front()->started_ms, 0);
  std::string text = base::cat(printable(name_of(*open.front()), kOperationColumns), ", ", duration_text(since));
  if (open.size() > 1) text += base::cat(" (and ", open.size() - 1, " more)");
  return text;
}

Row row_of(const FlightRecord& record) {
  const FlightOperation* finished = nullptr;
  for (const FlightOperation& operation : record.collectives) {
    if (operation.finished_ms != 0) finished = &operation;
  }
  return {std::to_string(record.rank), finished == nullptr ? "-" : printable(name_of(*finished), kOperationColumns),
          in_flight(record, finished == nullptr ? 0 : finished->sequence), printable(record.failure, kFailureColumns)};
}

}  // namespace

std::string to_json(const Finding& finding) {
  Json json = {{"finding", finding.finding},
               {"group", finding.group},
               {"world_size", finding.world_size},
               {"ranks", finding.ranks},
               {"waiting", finding.waiting}};
  if (finding.sequence != 0) {
    json["operation"] = finding.kind;
    json["sequence"] = finding.sequence;
  }
  json["text"] = finding.text;
  return line_of(json);
}

std::string to_json(const CorruptionError& corrupt) {
  return line_of({{"finding", "corrupt_file"},
                  {"file", corrupt.file()},
                  {"offset", corrupt.offset()},
                  {"text", std::string(corrupt.what())}});
}

std::string unreadable_to_json(const std::string& text) {
  return line_of({{"finding", "unreadable_file"}, {"text", text}});
}

void print_findings(std::ostream& out, const FlightGroup& group, const std::vector<Finding>& findings) {
  for (const Finding& finding : findings) out << printable(group.title() + ": " + finding.text) << '\n';
}

void print_table(std::ostream& out, const FlightGroup& group) {
  std::vector<Row> rows = {{"rank", "last finished", "in flight, for", "failure"}};
  std::ranges::transform(group.records, std::back_inserter(rows), row_of);
  std::array<std::size_t, 3> width{};
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < width.size(); ++i) width[i] = std::max(width[i], columns_of(row[i]));
  }
  const auto blanks = [](std::size_t n) { return std::string(n, ' '); };
  for (const Row& row : rows) {
    out << "  " << blanks(width[0] - columns_of(row[0])) << row[0];
    for (std::size_t i = 1; i < width.size(); ++i) out << "  " << row[i] << blanks(width[i] - columns_of(row[i]));
    out << "  " << row[3] << '\n';
  }
  if (!group.absent.empty()) out << "  no record: " << rank_list(group.absent) << '\n';
}

std::string printable(std::string_view text, std::size_t columns) {
  std::string out;
  std::size_t used = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (!continues(text[i]) && columns != 0 && used++ == columns) break;
    // C1 controls are two bytes in UTF-8, and a terminal obeys them as it does the others.
    const bool c1 =
        byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0 && continues(text[i + 1]);
    if (c1) ++i;
    out += byte < 0x20 || byte == 0x7F || c1 ? ' ' : text[i];
  }
  return out;
}

}  // namespace lockstep::doctor
