#include "apps/lockstep/doctor/flight_record.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <optional>
#include <system_error>

#include <nlohmann/json.hpp>

#include "lockstep/core/base/check.h"
#include "lockstep/core/io/file.h"

namespace lockstep::doctor {
namespace {

using Json = nlohmann::json;

// Bounds that no recorder comes near: they keep the arithmetic and the memory of what follows within its types.
constexpr std::uint64_t kMaxFileBytes = std::uint64_t{64} << 20;
constexpr std::int64_t kMaxWorldSize = 1 << 20;
constexpr std::int64_t kMaxMilliseconds = std::int64_t{1} << 53;
constexpr std::uint64_t kMaxSequence = std::uint64_t{1} << 62;
constexpr std::size_t kMaxWord = 64;

constexpr const char* kWhatWritesThem =
    "with LOCKSTEP_FLIGHT_DIR=FOLDER in a job's environment, each rank whose communicator fails writes its last "
    "operations "
    "there";

/// An object of the file and where it stands there, for messages.
class Reader {
 public:
  Reader(const std::string& file, const Json& object, std::string place)
      : file_(file), object_(object), place_(std::move(place)) {
    if (!object_.is_object()) fail(place_.empty() ? "the file" : place_, "an object");
  }

  std::string text(const char* key) const {
    const Json& value = at(key);
    if (!value.is_string()) fail(name(key), "a string");
    return value.get<std::string>();
  }
  std::string word(const char* key) const {
    std::string value = text(key);
    if (value.size() > kMaxWord) fail(name(key), base::cat("at most ", kMaxWord, " characters"));
    return value;
  }
  std::int64_t integer(const char* key, std::int64_t least, std::int64_t most) const {
    const Json& value = at(key);
    const bool fits =
        value.is_number_integer() &&
        (!value.is_number_unsigned() || value.get<std::uint64_t>() <= std::numeric_limits<std::int64_t>::max());
    if (!fits || value.get<std::int64_t>() < least || value.get<std::int64_t>() > most) {
      fail(name(key), base::cat("an integer from ", least, " to ", most));
    }
    return value.get<std::int64_t>();
  }
  std::uint64_t natural(const char* key, std::uint64_t least, std::uint64_t most) const {
    const Json& value = at(key);
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() < least || value.get<std::uint64_t>() > most) {
      fail(name(key), base::cat("an integer from ", least, " to ", most));
    }
    return value.get<std::uint64_t>();
  }
  const Json& array(const char* key) const {
    const Json& value = at(key);
    if (!value.is_array()) fail(name(key), "an array");
    return value;
  }
  bool has(const char* key) const { return object_.contains(key); }
  [[noreturn]] void fail(const std::string& what, const std::string& expected) const {
    throw CorruptionError(base::cat(file_, ": ", what, ": expected ", expected), file_);
  }
  std::string name(const char* key) const { return place_.empty() ? key : place_ + "." + key; }

 private:
  const Json& at(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) fail(name(key), "it to be there");
    return *found;
  }

  const std::string& file_;
  const Json& object_;
  std::string place_;
};

FlightOperation read_operation(const Reader& in, int world_size) {
  FlightOperation out;
  out.sequence = in.natural("sequence", 1, kMaxSequence);
  out.kind = in.word("kind");
  out.count = in.natural("count", 0, std::numeric_limits<std::uint64_t>::max());
  out.dtype = in.word("dtype");
  if (in.has("op")) out.op = in.word("op");
  if (in.has("root")) out.root = static_cast<int>(in.integer("root", -1, world_size - 1));
  if (out.kind == "send" || out.kind == "recv") {
    out.peer = static_cast<int>(in.integer("peer", kAnyPeer, world_size - 1));
    out.tag = in.integer("tag", std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max());
  }
  if (in.has("label")) out.label = in.text("label");
  out.started_ms = in.integer("started_ms", 0, kMaxMilliseconds);
  out.finished_ms = in.integer("finished_ms", 0, kMaxMilliseconds);
  if (out.finished_ms != 0 && out.finished_ms < out.started_ms) {
    in.fail(in.name("finished_ms"), "0 or no less than started_ms");
  }
  return out;
}

void sort_and_check(const Reader& in, const char* what, std::vector<FlightOperation>& operations) {
  std::ranges::sort(operations, {}, &FlightOperation::sequence);
  const auto twice = std::ranges::adjacent_find(operations, {}, &FlightOperation::sequence);
  if (twice != operations.end()) {
    in.fail("operations", base::cat("each sequence once, but ", what, " #", twice->sequence, " is there twice"));
  }
}

FlightRecord read_record(const std::string& file, const Json& json) {
  const Reader in(file, json, "");
  FlightRecord out;
  out.file = file;
  out.group = in.text("group");
  out.backend = in.word("backend");
  out.world_size = static_cast<int>(in.integer("world_size", 1, kMaxWorldSize));
  out.rank = static_cast<int>(in.integer("rank", 0, out.world_size - 1));
  out.failure = in.text("failure");
  out.written_ms = in.integer("written_ms", 0, kMaxMilliseconds);
  std::size_t index = 0;
  for (const Json& entry : in.array("operations")) {
    FlightOperation operation =
        read_operation(Reader(file, entry, base::cat("operations[", index++, "]")), out.world_size);
    const bool message = operation.kind == "send" || operation.kind == "recv";
    (message ? out.messages : out.collectives).push_back(std::move(operation));
  }
  sort_and_check(in, "collective", out.collectives);
  sort_and_check(in, "message", out.messages);
  return out;
}

bool reduces(const std::string& kind) { return kind == "all_reduce" || kind == "reduce" || kind == "reduce_scatter"; }
bool has_root(const std::string& kind) {
  return kind == "broadcast" || kind == "reduce" || kind == "gather" || kind == "scatter";
}

std::string describe(const FlightOperation& operation, const std::string& number) {
  std::string text = operation.kind + number;
  if (operation.kind == "barrier") return text;
  if (operation.kind == "allocate") return base::cat(text, " (", operation.count, " bytes)");
  text += base::cat(" (", operation.count, " ", operation.dtype);
  if (reduces(operation.kind)) text += ", " + operation.op;
  if (has_root(operation.kind)) text += base::cat(", root ", operation.root);
  if (operation.kind == "send" || operation.kind == "recv") {
    text += base::cat(", tag ", operation.tag, operation.kind == "send" ? ", to " : ", from ");
    text += operation.peer == kAnyPeer ? "any rank" : base::cat("rank ", operation.peer);
  }
  if (!operation.label.empty()) text += ", " + operation.label;
  return text + ")";
}

}  // namespace

std::string describe(const FlightOperation& operation) {
  return describe(operation, base::cat(" #", operation.sequence));
}

std::string describe_call(const FlightOperation& operation) { return describe(operation, ""); }

bool same_call(const FlightOperation& a, const FlightOperation& b) {
  if (a.kind != b.kind) return false;
  if (a.kind == "barrier") return true;
  if (a.kind != "all_to_all" && a.count != b.count) return false;
  if (a.kind == "allocate") return true;
  return a.dtype == b.dtype && (!reduces(a.kind) || a.op == b.op) && (!has_root(a.kind) || a.root == b.root);
}

FlightRecord parse_flight_record(const std::string& file, std::string_view text) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::parse_error& error) {
    throw CorruptionError(base::cat(file, ": not a complete JSON file, wrong at byte ", error.byte), file, error.byte);
  } catch (const Json::exception& error) {  // a number beyond all bounds
    throw CorruptionError(base::cat(file, ": not valid JSON: ", error.what()), file);
  }
  return read_record(file, json);
}

FlightFolder read_flight_folder(const std::string& directory) {
  namespace fs = std::filesystem;
  std::error_code error;
  LS_REQUIRE(fs::is_directory(directory, error), "'", directory, "' is no folder; ", kWhatWritesThem);
  std::vector<fs::path> paths;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    std::error_code ignored;  // A file that has just gone is none.
    if (name.starts_with("flight_") && name.ends_with(".json") && entry->is_regular_file(ignored)) {
      paths.push_back(entry->path());
    }
  }
  if (error) throw SystemError("list the folder " + directory, error.value());
  LS_REQUIRE(!paths.empty(), "no flight_*.json in '", directory, "'; ", kWhatWritesThem);
  std::ranges::sort(paths);
  FlightFolder folder;
  for (const fs::path& path : paths) {
    const std::string file = path.string();
    try {
      const std::uintmax_t nbytes = fs::file_size(path, error);
      if (error) throw SystemError("stat " + file, error.value());
      if (nbytes > kMaxFileBytes) {
        throw CorruptionError(base::cat(file, ": ", nbytes, " bytes; expected at most ", kMaxFileBytes), file);
      }
      folder.records.push_back(parse_flight_record(file, io::read_file(file)));
    } catch (const CorruptionError& corruption) {
      folder.corrupt.push_back(corruption);
    } catch (const SystemError& refused) {
      folder.unreadable.emplace_back(refused.what());
    }
  }
  return folder;
}

}  // namespace lockstep::doctor
