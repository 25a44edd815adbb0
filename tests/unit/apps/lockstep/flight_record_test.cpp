// The files: what is read, what is refused, and what is printed of them.

#include "apps/lockstep/doctor/flight_record.h"

#include <filesystem>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "apps/lockstep/doctor/flight_report.h"
#include "lockstep/core/io/file.h"
#include "tests/unit/apps/lockstep/flight_records.h"

namespace lockstep::doctor {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using Json = nlohmann::json;

Json valid_file() {
  return Json::parse(R"({
    "group": "dp/0", "backend": "shm", "rank": 2, "world_size": 4, "failure": "rank 2/4 group dp/0: it failed",
    "written_ms": 5000, "operations": [
      {"sequence": 2, "kind": "all_reduce", "count": 262144, "dtype": "f32", "op": "sum", "root": 0,
       "label": "bucket 2", "started_ms": 2000, "finished_ms": 0},
      {"sequence": 1, "kind": "broadcast", "count": 7, "dtype": "i64", "op": "sum", "root": 3,
       "label": "", "started_ms": 1000, "finished_ms": 1004},
      {"sequence": 1, "kind": "recv", "count": 4, "dtype": "u8", "peer": -1, "tag": 9,
       "started_ms": 1500, "finished_ms": 0}]})");
}

/// The text of the CorruptionError that the file must give.
std::string refusal(const std::string& text) {
  try {
    parse_flight_record("f.json", text);
  } catch (const CorruptionError& error) {
    EXPECT_EQ(error.file(), "f.json");
    EXPECT_THAT(error.what(), testing::StartsWith("f.json: "));
    return error.what();
  }
  ADD_FAILURE() << "no CorruptionError for " << text;
  return {};
}

std::string refusal_with(const std::string& pointer, const Json& value) {
  Json file = valid_file();
  file[Json::json_pointer(pointer)] = value;
  return refusal(file.dump());
}

TEST(FlightRecord, IsReadWithMessagesApartFromCollectives) {
  const FlightRecord record = parse_flight_record("f.json", valid_file().dump());
  EXPECT_EQ(record.file, "f.json");
  EXPECT_EQ(record.group, "dp/0");
  EXPECT_EQ(record.backend, "shm");
  EXPECT_EQ(record.rank, 2);
  EXPECT_EQ(record.world_size, 4);
  EXPECT_EQ(record.failure, "rank 2/4 group dp/0: it failed");
  EXPECT_EQ(record.written_ms, 5000);
  ASSERT_EQ(record.collectives.size(), 2u);
  EXPECT_EQ(describe(record.collectives[0]), "broadcast #1 (7 i64, root 3)");
  EXPECT_EQ(describe(record.collectives[1]), "all_reduce #2 (262144 f32, sum, bucket 2)");
  EXPECT_EQ(record.collectives[0].started_ms, 1000);
  EXPECT_EQ(record.collectives[0].finished_ms, 1004);
  ASSERT_EQ(record.messages.size(), 1u);
  EXPECT_EQ(describe(record.messages[0]), "recv #1 (4 u8, tag 9, from any rank)");
}

TEST(FlightRecord, OperationsReadAsInTheErrors) {
  EXPECT_EQ(describe(barrier(3, 0)), "barrier #3");
  EXPECT_EQ(describe(message(7, "send", 2, 3, 0)), "send #7 (4 f32, tag 3, to rank 2)");
  EXPECT_EQ(describe_call(all_reduce(7, 0)), "all_reduce (4 f32, sum)");
  FlightOperation other = all_reduce(4, 0);
  other.kind = "allocate";
  EXPECT_EQ(describe(other), "allocate #4 (4 bytes)");
  other.kind = "reduce";
  EXPECT_EQ(describe(other), "reduce #4 (4 f32, sum, root 0)");
  other.kind = "of_tomorrow";
  EXPECT_EQ(describe(other), "of_tomorrow #4 (4 f32)");
}

TEST(FlightRecord, MoreFieldsThanItKnowsAreFine) {
  Json file = valid_file();
  file["host"] = "a";
  file["operations"][0]["nbytes"] = 5;
  EXPECT_EQ(parse_flight_record("f.json", file.dump()).collectives.size(), 2u);
}

TEST(FlightRecord, SaysWhatIsWrongAndWhere) {
  EXPECT_THAT(refusal(""), HasSubstr("not a complete JSON file"));
  EXPECT_THAT(refusal("[1]"), HasSubstr("the file: expected an object"));
  EXPECT_THAT(refusal(R"({"rank": 1e999})"), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal(std::string(1 << 20, '[')), HasSubstr("not a complete JSON file"));
  EXPECT_THAT(refusal_with("/rank", 4), HasSubstr("rank: expected an integer from 0 to 3"));
  EXPECT_THAT(refusal_with("/rank", -1), HasSubstr("rank: expected an integer from 0 to 3"));
  EXPECT_THAT(refusal_with("/rank", "2"), HasSubstr("rank: expected an integer from 0 to 3"));
  EXPECT_THAT(refusal_with("/rank", 2.0), HasSubstr("rank: expected an integer from 0 to 3"));
  EXPECT_THAT(refusal_with("/rank", UINT64_MAX), HasSubstr("rank: expected an integer from 0 to 3"));
  EXPECT_THAT(refusal_with("/world_size", 0), HasSubstr("world_size: expected an integer from 1 to 1048576"));
  EXPECT_THAT(refusal_with("/world_size", INT32_MAX), HasSubstr("world_size: expected"));
  EXPECT_THAT(refusal_with("/group", 1), HasSubstr("group: expected a string"));
  EXPECT_THAT(refusal_with("/backend", std::string(65, 'x')), HasSubstr("backend: expected at most 64 characters"));
  EXPECT_THAT(refusal_with("/written_ms", INT64_MAX), HasSubstr("written_ms: expected an integer from 0"));
  EXPECT_THAT(refusal_with("/operations", Json::object()), HasSubstr("operations: expected an array"));
  EXPECT_THAT(refusal_with("/operations/1", 7), HasSubstr("operations[1]: expected an object"));
  EXPECT_THAT(refusal_with("/operations/1/sequence", 0), HasSubstr("operations[1].sequence: expected"));
  EXPECT_THAT(refusal_with("/operations/1/sequence", UINT64_MAX), HasSubstr("operations[1].sequence: expected"));
  EXPECT_THAT(refusal_with("/operations/1/sequence", 2), HasSubstr("collective #2 is there twice"));
  EXPECT_THAT(refusal_with("/operations/0/count", -5), HasSubstr("operations[0].count: expected"));
  EXPECT_THAT(refusal_with("/operations/0/root", 4), HasSubstr("operations[0].root: expected an integer from -1 to 3"));
  EXPECT_THAT(refusal_with("/operations/2/peer", 4), HasSubstr("operations[2].peer: expected an integer from -1 to 3"));
  EXPECT_THAT(refusal_with("/operations/1/finished_ms", 999), HasSubstr("0 or no less than started_ms"));
  for (const char* const key : {"group", "backend", "rank", "world_size", "failure", "written_ms", "operations"}) {
    Json file = valid_file();
    file.erase(key);
    EXPECT_THAT(refusal(file.dump()), HasSubstr(std::string(key) + ": expected it to be there"));
  }
}

TEST(FlightRecord, TheOffsetIsWhereTheTextEnds) {
  const std::string text = valid_file().dump();
  try {
    parse_flight_record("f.json", text.substr(0, 100));
    FAIL() << "no error";
  } catch (const CorruptionError& error) {
    EXPECT_EQ(error.offset(), 101u);
  }
}

// Whatever a file holds, it is read or refused, and what is read can be judged and printed.
TEST(FlightRecord, SurvivesMutations) {
  Json other = valid_file();
  other["rank"] = 1;
  const std::string seeds[] = {valid_file().dump(), other.dump()};
  const std::vector<std::string> words = {"-1",
                                          "0",
                                          "1e400",
                                          "18446744073709551615",
                                          "-9223372036854775808",
                                          "null",
                                          "[]",
                                          "{}",
                                          "\"",
                                          "4294967296",
                                          "1048576",
                                          "\"send\"",
                                          "\xC2\x9B",
                                          "\\u001b"};
  std::mt19937 random(20240607);
  const auto pick = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  std::size_t read = 0;
  constexpr std::size_t kRuns = 5'000;
  for (std::size_t run = 0; run < kRuns; ++run) {
    std::vector<FlightRecord> records;
    for (std::string text : seeds) {
      for (std::size_t changes = 1 + pick(3); changes > 0; --changes) {
        const std::size_t at = pick(text.size());
        switch (pick(5)) {
          case 0: text[at] = static_cast<char>(random()); break;
          case 1: text[at] = static_cast<char>('0' + pick(10)); break;
          case 2: text.replace(at, pick(4), words[pick(words.size())]); break;
          case 3: text.erase(at, 1 + pick(12)); break;
          default: text.insert(at, text.substr(pick(text.size()), pick(30)));
        }
      }
      if (pick(20) == 0) text.resize(pick(text.size()));
      try {
        records.push_back(parse_flight_record("f.json", text));
        ++read;
      } catch (const CorruptionError&) {
      }
    }
    std::ostringstream out;
    for (const FlightGroup& group : flight_groups(std::move(records))) {
      const auto findings = diagnose(group);
      ASSERT_FALSE(findings.empty());
      print_findings(out, group, findings);
      print_table(out, group);
      for (const Finding& finding : findings) ASSERT_TRUE(Json::accept(to_json(finding)));
    }
    for (const char byte : out.str()) ASSERT_TRUE(byte == '\n' || static_cast<unsigned char>(byte) >= 0x20);
  }
  EXPECT_GT(read, kRuns / 50) << "hardly anything got past the parser";
  EXPECT_LT(read, 2 * kRuns);
}

TEST(FlightFolder, ReadsWhatIsValidAndNamesTheRest) {
  const io::TempDirectory directory("flight");
  const auto path = [&](const std::string& name) { return directory.path() + "/" + name; };
  io::write_file_atomic(path("flight_dp_0_rank2.json"), valid_file().dump());
  io::write_file_atomic(path("flight_dp_0_rank3.json"), valid_file().dump().substr(0, 50));
  io::write_file_atomic(path("flight_notes.txt"), "not ours");
  io::write_file_atomic(path("other.json"), "not ours");
  std::filesystem::create_directory(path("flight_folder.json"));
  const FlightFolder folder = read_flight_folder(directory.path());
  ASSERT_EQ(folder.records.size(), 1u);
  EXPECT_EQ(folder.records[0].rank, 2);
  ASSERT_EQ(folder.corrupt.size(), 1u);
  EXPECT_EQ(folder.corrupt[0].file(), path("flight_dp_0_rank3.json"));
  EXPECT_TRUE(folder.unreadable.empty());
}

TEST(FlightFolder, AFileBeyondAllBoundsIsNotRead) {
  const io::TempDirectory directory("flight");
  const std::string path = directory.path() + "/flight_world_rank0.json";
  io::write_file_atomic(path, "{}");
  std::filesystem::resize_file(path, std::uintmax_t{1} << 40);  // a hole: it takes no space
  const FlightFolder folder = read_flight_folder(directory.path());
  ASSERT_EQ(folder.corrupt.size(), 1u);
  EXPECT_THAT(folder.corrupt[0].what(), HasSubstr("1099511627776 bytes; expected at most"));
}

TEST(FlightFolder, AFolderWithoutRecordsIsAUsageError) {
  const io::TempDirectory directory("flight");
  for (const std::string& path : {directory.path(), directory.path() + "/none"}) {
    try {
      read_flight_folder(path);
      ADD_FAILURE() << "no error for " << path;
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr(path), HasSubstr("LOCKSTEP_FLIGHT_DIR")));
    }
  }
}

TEST(FlightReport, ATable) {
  FlightRecord first = record(0, 12, {broadcast(1, 0, 5), all_reduce(2, 100), all_reduce(3, 101)}, 2600);
  first.failure = "line 1\nline 2 \x1B[31m\xC2\x9B" + std::string(90, 'x');
  FlightRecord second = record(10, 12, {}, 2604);
  second.messages = {message(1, "recv", 2, 7, 2000)};
  FlightRecord third = record(11, 12, {barrier(1, 0, 5)});
  std::ostringstream out;
  print_table(out, flight_groups({first, second, third}).at(0));
  EXPECT_EQ(out.str(),
            "  rank  last finished  in flight, for                     failure\n"
            "     0  broadcast #1   all_reduce #2, 2.5 s (and 1 more)  line 1 line 2  [31m " +
                std::string(60, 'x') +
                "\n"
                "    10  -              recv #1 from 2 tag 7, 604 ms       it failed\n"
                "    11  barrier #1     -                                  it failed\n"
                "  no record: ranks 1-9\n");
}

TEST(FlightReport, CutsBetweenCharacters) {
  EXPECT_EQ(printable("\xC3\xA4\xC3\xB6\xC3\xBC", 2), "\xC3\xA4\xC3\xB6");
  EXPECT_EQ(printable("abc", 3), "abc");
  EXPECT_EQ(printable("a\tb\x7F", 0), "a b ");
}

TEST(FlightReport, LinesOfJson) {
  Finding finding;
  finding.finding = "late";
  finding.group = "a\nb\xFF";
  finding.world_size = 3;
  finding.ranks = {2};
  finding.waiting = {0, 1};
  finding.text = "text";
  EXPECT_EQ(to_json(finding),
            "{\"finding\":\"late\",\"group\":\"a\\nb\xEF\xBF\xBD\",\"world_size\":3,\"ranks\":[2],"
            "\"waiting\":[0,1],\"text\":\"text\"}");
  finding.kind = "barrier";
  finding.sequence = 5;
  const Json line = Json::parse(to_json(finding));
  EXPECT_EQ(line["operation"], "barrier");
  EXPECT_EQ(line["sequence"], 5);
  EXPECT_EQ(to_json(CorruptionError("what", "file", 7)),
            "{\"finding\":\"corrupt_file\",\"file\":\"file\",\"offset\":7,\"text\":\"what\"}");
  EXPECT_EQ(unreadable_to_json("what"), "{\"finding\":\"unreadable_file\",\"text\":\"what\"}");
}

}  // namespace
}  // namespace lockstep::doctor
