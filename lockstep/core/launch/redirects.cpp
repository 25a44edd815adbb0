#include "lockstep/core/launch/redirects.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "lockstep/core/base/check.h"

namespace lockstep::launch {
namespace {

std::optional<int> parse_int(std::string_view text) {
  int value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || stop != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

constexpr const char* kExpected =
    "expected 0 (none), 1 (stdout), 2 (stderr), 3 (both), or such a number for each local rank as in 0:1,1:3";

Streams parse_streams(std::string_view number, std::string_view text) {
  const auto value = parse_int(number);
  LS_REQUIRE(value && *value <= 3, "'", text, "': ", kExpected);
  return static_cast<Streams>(*value);
}

}  // namespace

bool StreamChoice::none() const {
  return all_ == Streams::kNone &&
         std::ranges::all_of(of_rank_, [](const auto& entry) { return entry.second == Streams::kNone; });
}

StreamChoice parse_stream_choice(std::string_view text) {
  if (text.find(':') == std::string_view::npos) return StreamChoice(parse_streams(text, text));
  StreamChoice choice;
  for (std::string_view rest = text;;) {
    const auto comma = rest.find(',');
    const std::string_view entry = rest.substr(0, comma);
    const auto colon = entry.find(':');
    LS_REQUIRE(colon != std::string_view::npos, "'", text, "': ", kExpected);
    const auto rank = parse_int(entry.substr(0, colon));
    LS_REQUIRE(rank, "'", text, "': '", entry.substr(0, colon), "' is no local rank; ", kExpected);
    const bool fresh = choice.of_rank_.emplace(*rank, parse_streams(entry.substr(colon + 1), text)).second;
    LS_REQUIRE(fresh, "'", text, "': local rank ", *rank, " is there twice");
    if (comma == std::string_view::npos) return choice;
    rest.remove_prefix(comma + 1);
  }
}

}  // namespace lockstep::launch
