// The file of all ranks.

#include <filesystem>
#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "lockstep/core/base/error.h"
#include "lockstep/core/io/file.h"
#include "lockstep/parallel/trace/trace.h"
#include "tests/unit/parallel/group/rank_threads.h"

namespace lockstep {
namespace {

using nlohmann::json;

std::size_t files_in(const std::string& directory) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(directory), {}));
}

TEST(WriteTrace, HoldsTheSpansOfAllRanksOnOneClock) {
  for (const int world_size : {1, 2, 3, 5}) {
    const io::TempDirectory directory;
    const std::string file = directory.path() + "/trace.json";
    test::run_rank_threads(world_size, [&](const std::shared_ptr<ProcessGroup>& group) {
      Trace trace(4);
      // Rank r has r spans, one after another, each in the turn of its rank.
      for (int i = 0; i < 5; ++i) {
        for (int rank = 0; rank < group->world_size(); ++rank) {
          group->barrier();
          if (rank == group->rank() && i < rank) {
            const Trace::Scope span = trace.span("turn " + std::to_string(i), "compute");
          }
        }
      }
      write_trace(*group, trace, file);
    });
    const json read = json::parse(io::read_file(file));
    ASSERT_EQ(read["ranks"].size(), static_cast<std::size_t>(world_size));
    std::map<int, int> spans;
    std::map<double, std::pair<std::string, int>> by_start;
    for (const json& event : read["traceEvents"]) {
      if (event["ph"] != "X") continue;
      ++spans[event["pid"].get<int>()];
      EXPECT_GE(event["ts"], 0.0);
      by_start[event["ts"]] = {event["name"], event["pid"]};
    }
    for (int rank = 0; rank < world_size; ++rank) {
      EXPECT_EQ(spans[rank], rank);
      EXPECT_EQ(read["ranks"][static_cast<std::size_t>(rank)]["rank"], rank);
      EXPECT_EQ(read["ranks"][static_cast<std::size_t>(rank)]["dropped"], 0);
      // Threads of one process have one clock.
      EXPECT_EQ(read["ranks"][static_cast<std::size_t>(rank)]["clock_offset_us"], 0.0);
    }
    std::vector<std::pair<std::string, int>> in_order;
    for (const auto& [start, span] : by_start) in_order.push_back(span);
    EXPECT_TRUE(std::ranges::is_sorted(in_order)) << world_size;
    if (world_size > 1) {
      EXPECT_EQ(by_start.begin()->first, 0.0);
    }
    EXPECT_EQ(files_in(directory.path()), 1u);
  }
}

TEST(WriteTrace, AFileThatCannotBeWrittenFailsOnAllRanksAndTheGroupLives) {
  const io::TempDirectory directory;
  const std::string missing = directory.path() + "/missing/trace.json";
  test::run_rank_threads(3, [&](const std::shared_ptr<ProcessGroup>& group) {
    Trace trace;
    try {
      write_trace(*group, trace, missing);
      ADD_FAILURE() << "rank " << group->rank() << " did not notice";
    } catch (const SystemError& error) {
      EXPECT_EQ(error.code(), ENOENT);
      EXPECT_THAT(error.what(), ::testing::HasSubstr(missing));
    }
    write_trace(*group, trace, directory.path() + "/trace.json");
  });
  EXPECT_EQ(files_in(directory.path()), 1u);
}

TEST(WriteTrace, MessagesOfTheProgramStayItsOwn) {
  const io::TempDirectory directory;
  test::run_rank_threads(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    Communicator& communicator = group->communicator();
    const int peer = 1 - group->rank();
    std::int64_t number = 41 + group->rank();
    std::int64_t came = 0;
    Work sent = communicator.send_async(&number, 1, DType::kInt64, peer);
    write_trace(*group, Trace(), directory.path() + "/trace.json");
    communicator.recv(&came, 1, DType::kInt64, peer);
    sent.wait();
    EXPECT_EQ(came, 41 + peer);
  });
}

}  // namespace
}  // namespace lockstep
