#include "apps/lockstep/doctor/flight_diagnosis.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/apps/lockstep/flight_records.h"

namespace lockstep::doctor {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const std::string kOpen = "all_reduce #2 (4 f32, sum)";
const std::string kClocks =
    "different_clocks: the times in the files do not fit together: they may come from different hosts or runs; time "
    "differences are left out";

TEST(FlightDiagnosis, ARankThatNeverStartedWhatTheOthersWaitedIn) {
  std::vector<FlightRecord> records;
  for (const int rank : {0, 1, 3}) records.push_back(record(rank, 4, {broadcast(1, 0, 100), all_reduce(2, 200)}));
  records.push_back(record(2, 4, {broadcast(1, 0, 800)}));
  const auto findings = diagnose_all(records);
  EXPECT_THAT(lines(findings),
              ElementsAre("never_started: rank 2 never started " + kOpen +
                          ", in which ranks 0, 1, 3 waited; rank 2 was last in broadcast #1 (finished 9.2 s before the "
                          "others gave up)"));
  EXPECT_THAT(findings[0].ranks, ElementsAre(2));
  EXPECT_THAT(findings[0].waiting, ElementsAre(0, 1, 3));
  EXPECT_EQ(findings[0].kind, "all_reduce");
  EXPECT_EQ(findings[0].sequence, 2u);
  EXPECT_EQ(findings[0].group, "world");
  EXPECT_EQ(findings[0].world_size, 4);
}

TEST(FlightDiagnosis, TheOperationKeepsItsLabel) {
  FlightOperation bucket = all_reduce(2, 200);
  bucket.label = "bucket 2";
  const auto findings = diagnose_all({record(0, 2, {barrier(1, 0, 1), bucket}), record(1, 2, {barrier(1, 0, 1)})});
  EXPECT_THAT(findings.at(0).text, HasSubstr("never started all_reduce #2 (4 f32, sum, bucket 2), in which rank 0"));
}

TEST(FlightDiagnosis, ALaggardThatIsStillInAnEarlierOperation) {
  // Rank 0, the broadcast's root, went on alone.
  EXPECT_THAT(
      lines(diagnose_all(
          {record(0, 3, {broadcast(1, 0, 5), all_reduce(2, 10)}), record(1, 3, {broadcast(1, 0)}), record(2, 3, {})})),
      ElementsAre("never_started: rank 2 never started broadcast #1 (4 f32, root 0), in which rank 1 waited and "
                  "which rank 0 finished; rank 2 was last in no operation at all"));
  // Nobody knows whether #1 ended: the sentence must not leave the impression that it did.
  EXPECT_THAT(
      lines(diagnose_all({record(0, 2, {all_reduce(1, 0), all_reduce(2, 10)}), record(1, 2, {all_reduce(1, 0)})})),
      ElementsAre("never_started: rank 1 never started " + kOpen +
                  ", in which rank 0 waited; rank 1 was last in all_reduce #1 (started 10.0 s before the others "
                  "gave up, not finished); no rank is known to have finished #1"));
}

TEST(FlightDiagnosis, TheFirstOperationThatIsMissedIsNamedWhereRanksAreAheadOfEachOther) {
  const auto findings =
      diagnose_all({record(0, 3, {barrier(1, 0, 1), all_reduce(2, 5), all_reduce(3, 6)}),
                    record(1, 3, {barrier(1, 0, 1), all_reduce(2, 5)}), record(2, 3, {barrier(1, 0, 2)})});
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_THAT(findings[0].text, HasSubstr("rank 2 never started " + kOpen + ", in which ranks 0, 1 waited;"));
}

TEST(FlightDiagnosis, ARankThatCameAfterTheOthersHadGivenUpIsLate) {
  const auto gave_up = [](int rank, std::int64_t at) {
    return record(rank, 3, {broadcast(1, 0, 100), all_reduce(2, 200)}, at);
  };
  EXPECT_THAT(lines(diagnose_all({gave_up(0, 5004), gave_up(1, 5000),
                                  record(2, 3, {broadcast(1, 0, 300), all_reduce(2, 8100)}, 8100)})),
              ElementsAre("late: rank 2 came to " + kOpen +
                          ", in which ranks 0, 1 waited, only 3.1 s after rank 1 had given up; rank 2 was last in "
                          "broadcast #1 (finished 4.7 s before the others gave up)"));
  // What it came with does not make a mismatch: the group was over.
  EXPECT_THAT(lines(diagnose_all(
                  {gave_up(0, 5004), gave_up(1, 5000), record(2, 3, {broadcast(1, 0, 300), barrier(2, 5001)}, 5002)})),
              ElementsAre("late: rank 2 came with barrier #2 instead of " + kOpen +
                          ", in which ranks 0, 1 waited, only 1 ms after rank 1 had given up; rank 2 was last in "
                          "broadcast #1 (finished 4.7 s before the others gave up)"));
  // In the very millisecond in which a rank gave up nobody was late.
  EXPECT_EQ(
      diagnose_all({gave_up(0, 5000), gave_up(1, 5000), record(2, 3, {broadcast(1, 0, 300), barrier(2, 5000)}, 5000)})
          .at(0)
          .finding,
      "mismatch");
}

TEST(FlightDiagnosis, ARankWithoutARecord) {
  EXPECT_THAT(lines(diagnose_all({record(0, 3, {broadcast(1, 0, 5), all_reduce(2, 10)}),
                                  record(1, 3, {broadcast(1, 0, 5), all_reduce(2, 10)})})),
              ElementsAre("no_record: rank 2 left no record: it was killed, or still runs, or never failed; ranks 0, 1 "
                          "waited in " +
                          kOpen));
  EXPECT_THAT(lines(diagnose_all({record(1, 4, {broadcast(1, 0), all_reduce(2, 10)}),
                                  record(3, 4, {broadcast(1, 0, 5), all_reduce(2, 10, 20)})})),
              ElementsAre("no_record: ranks 0, 2 left no record: they were killed, or still run, or never failed; rank "
                          "1 waited in broadcast #1 (4 f32, root 0), which rank 3 finished"));
  // It may be missing beside one that is known to lag: both are said.
  const auto both =
      diagnose_all({record(0, 3, {broadcast(1, 0, 5), all_reduce(2, 10)}), record(1, 3, {broadcast(1, 0, 5)})});
  EXPECT_THAT(lines(both),
              ElementsAre("no_record: rank 2 left no record: it was killed, or still runs, or never failed",
                          HasSubstr("never_started: rank 1 never started " + kOpen + ", in which rank 0")));
  EXPECT_THAT(lines(diagnose_all({record(1, 2, {})})),
              ElementsAre("no_record: rank 0 left no record: it was killed, or still runs, or never failed"));
}

TEST(FlightDiagnosis, RanksThatCallDifferentOperations) {
  const auto with = [](int rank, FlightOperation second) {
    second.sequence = 2;
    second.label = "label " + std::to_string(rank);  // Labels may differ.
    return record(rank, 4, {barrier(1, 0, 1), second});
  };
  const auto findings = diagnose_all(
      {with(0, broadcast(2, 5)), with(1, all_reduce(2, 5)), with(2, all_reduce(2, 6)), with(3, barrier(2, 5))});
  EXPECT_THAT(lines(findings),
              ElementsAre("mismatch: the ranks called different operations as #2: ranks 1, 2 all_reduce "
                          "(4 f32, sum, label 1); rank 0 broadcast (4 f32, root 0, label 0); rank 3 barrier"));
  EXPECT_THAT(findings[0].ranks, ElementsAre(0, 3));
  EXPECT_THAT(findings[0].waiting, ElementsAre(1, 2));

  FlightOperation count = all_reduce(2, 5);
  count.count = 5;
  FlightOperation dtype = all_reduce(2, 5);
  dtype.dtype = "f64";
  FlightOperation op = all_reduce(2, 5);
  op.op = "max";
  for (const FlightOperation& other : {count, dtype, op}) {
    EXPECT_EQ(
        diagnose_all({with(0, other), with(1, all_reduce(2, 5)), with(2, all_reduce(2, 5)), with(3, all_reduce(2, 5))})
            .at(0)
            .finding,
        "mismatch");
  }
  EXPECT_EQ(diagnose_all({with(0, broadcast(2, 5, 0, 1)), with(1, broadcast(2, 5)), with(2, broadcast(2, 5)),
                          with(3, broadcast(2, 5))})
                .at(0)
                .finding,
            "mismatch");
}

TEST(FlightDiagnosis, WhatRanksMaySayDifferentlyIsNoMismatch) {
  FlightOperation mine = all_reduce(1, 5);
  mine.kind = "all_to_all";
  FlightOperation theirs = mine;
  theirs.count = 9;  // what this rank sends; ranks may send unequal parts
  mine.op = "max";   // says nothing of an operation that reduces nothing
  EXPECT_EQ(diagnose_all({record(0, 2, {mine}), record(1, 2, {theirs})}).at(0).finding, "unfinished");
}

TEST(FlightDiagnosis, AMismatchAfterTheOperationThatStoodStillIsSaidToo) {
  EXPECT_THAT(lines(diagnose_all({record(0, 3, {all_reduce(1, 1, 2), all_reduce(2, 5), all_reduce(3, 6)}),
                                  record(1, 3, {all_reduce(1, 1, 2), all_reduce(2, 5), barrier(3, 6)}),
                                  record(2, 3, {all_reduce(1, 1, 2)})})),
              ElementsAre(HasSubstr("mismatch: the ranks called different operations as #3: rank 0 "),
                          HasSubstr("never_started: rank 2 never started " + kOpen)));
}

TEST(FlightDiagnosis, AllStartedItAndItDidNotEnd) {
  EXPECT_THAT(
      lines(diagnose_all({record(0, 3, {barrier(1, 0, 5), broadcast(2, 10, 12)}),
                          record(1, 3, {barrier(1, 0, 5), broadcast(2, 10)}),
                          record(2, 3, {barrier(1, 0, 5), broadcast(2, 10, 13)})})),
      ElementsAre("unfinished: all 3 ranks started broadcast #2 (4 f32, root 0); ranks 0, 2 finished it, rank 1 "
                  "did not: slow or stopped after starting it"));
  EXPECT_THAT(lines(diagnose_all({record(0, 2, {all_reduce(1, 1000)}), record(1, 2, {all_reduce(1, 3500)})})),
              ElementsAre("unfinished: all 2 ranks started all_reduce #1 (4 f32, sum) and none finished it; rank 1 "
                          "started it last, 2.5 s after rank 0"));
  EXPECT_THAT(lines(diagnose_all({record(0, 1, {all_reduce(1, 1000)})})),
              ElementsAre("unfinished: the only rank started all_reduce #1 (4 f32, sum) and did not finish it"));
}

TEST(FlightDiagnosis, AnOperationBeforeOneThatIsCompleteIsComplete) {
  // Nobody waited for #1 by itself.
  const auto findings = diagnose_all({record(0, 2, {all_reduce(1, 0), all_reduce(2, 1, 5), barrier(3, 6)}),
                                      record(1, 2, {all_reduce(1, 0), all_reduce(2, 1, 5), barrier(3, 6)})});
  EXPECT_THAT(findings.at(0).text, HasSubstr("all 2 ranks started barrier #3 and none finished it"));
}

TEST(FlightDiagnosis, AnAbortShowsItsFirstCause) {
  std::vector<FlightRecord> records = {record(0, 4, {all_reduce(1, 0)}), record(1, 4, {}),
                                       record(3, 4, {all_reduce(1, 0)})};
  records[0].failure =
      "rank 0/4 group world: all_reduce #1: aborted: rank 0/4 group world: all_reduce #1: rank 2 ended the group: the "
      "disk is full";
  records[1].failure = "rank 1/4 group world: aborted: rank 2 ended the group: the disk is full";
  records[2].failure = records[0].failure;
  const auto findings = diagnose_all(records);
  EXPECT_THAT(lines(findings),
              ElementsAre("aborted: rank 2 ended the group, the others followed; its cause: the disk is full"));
  EXPECT_THAT(findings[0].ranks, ElementsAre(2));

  records[1].failure = "rank 1/4 group world: aborted: by hand";  // from itself
  records[0].failure = "rank 0/4 group world: aborted: rank 1 ended the group: by hand";
  records[2].failure = "rank 3/4 group world: aborted: rank 99999999999 ended the group: by hand";
  EXPECT_THAT(lines(diagnose_all(records)),
              ElementsAre("aborted: rank 1 ended the group, the others followed; its cause: by hand",
                          HasSubstr("no_record: rank 2 left no record")));

  records[2].failure = "rank 3/4 group world: barrier #7 timed out";  // not everyone followed
  EXPECT_EQ(diagnose_all(records).at(0).finding, "no_record");
}

TEST(FlightDiagnosis, NothingWrong) {
  std::vector<FlightRecord> records = {record(0, 2, {all_reduce(1, 0, 5)}), record(1, 2, {all_reduce(1, 0, 5)})};
  EXPECT_THAT(lines(diagnose_all(records)),
              ElementsAre("nothing: no rank is missing and no operation is unfinished; rank 0 failed with: it failed"));
  for (FlightRecord& each : records) each.failure = "";
  const auto findings = diagnose_all(records);
  EXPECT_THAT(lines(findings), ElementsAre("nothing: no rank is missing and no operation is unfinished"));
  EXPECT_THAT(findings[0].ranks, IsEmpty());
}

TEST(FlightDiagnosis, FilesOfDifferentRuns) {
  const auto findings =
      diagnose_all({record(0, 2, {all_reduce(8, 1, 2), all_reduce(9, 3, 4)}), record(1, 2, {all_reduce(7, 0)})});
  EXPECT_THAT(
      lines(findings),
      ElementsAre("different_runs: the files are of different runs: rank 0 finished all_reduce #9 (4 f32, sum), "
                  "which takes all ranks, but the record of rank 1 ends before it; remove the "
                  "older files and look again"));
  EXPECT_THAT(findings[0].ranks, ElementsAre(1));
  // A root may end a broadcast, and anyone an empty reduction, before others begin it.
  FlightOperation empty = all_reduce(9, 3, 4);
  empty.count = 0;
  for (const FlightOperation& alone : {broadcast(9, 3, 4), empty}) {
    EXPECT_EQ(
        diagnose_all({record(0, 2, {all_reduce(8, 1, 2), alone}), record(1, 2, {all_reduce(8, 1, 2)})}).at(0).finding,
        "never_started");
  }
}

TEST(FlightDiagnosis, TimesThatDoNotFitAreLeftOut) {
  constexpr std::int64_t kHour = 3600 * 1000;
  const auto apart = [](std::int64_t ms) {
    return diagnose_all(
        {record(0, 2, {broadcast(1, 0, 5), all_reduce(2, 10)}, 1000), record(1, 2, {broadcast(1, 0, 5)}, 1000 + ms)});
  };
  EXPECT_THAT(lines(apart(kHour)), ElementsAre(HasSubstr("(finished 995 ms before the others gave up)")));
  EXPECT_THAT(lines(apart(kHour + 1)),
              ElementsAre("never_started: rank 1 never started " + kOpen +
                              ", in which rank 0 waited; rank 1 was last in broadcast #1 (finished)",
                          kClocks));
  // One rank ended the barrier before the other began it: not on one clock. Nobody is called late by such times.
  EXPECT_THAT(lines(diagnose_all({record(0, 2, {barrier(1, 0, 5), all_reduce(2, 10)}, 20),
                                  record(1, 2, {barrier(1, 700, 705), all_reduce(2, 710)}, 720)})),
              ElementsAre("unfinished: all 2 ranks started " + kOpen + " and none finished it", kClocks));
}

TEST(FlightGroups, AreKeptApartAndComeInTheOrderOfTheirFailures) {
  FlightRecord first = record(1, 2, {all_reduce(5, 1)}, 100);
  first.group = "tp";
  const auto groups = flight_groups({record(2, 3, {}, 300), record(0, 3, {}, 200), first, record(0, 2, {}, 250)});
  ASSERT_EQ(groups.size(), 3u);
  EXPECT_EQ(groups[0].title(), "group tp (2 ranks)");
  EXPECT_THAT(groups[0].absent, ElementsAre(0));
  EXPECT_EQ(groups[1].title(), "group world (3 ranks)");
  EXPECT_THAT(groups[1].absent, ElementsAre(1));
  EXPECT_EQ(groups[1].record_of(2)->written_ms, 300);
  EXPECT_EQ(groups[1].record_of(1), nullptr);
  EXPECT_EQ(groups[2].title(), "group world (2 ranks)");
}

TEST(FlightGroups, OfSeveralRecordsOfARankTheNewestCounts) {
  const FlightRecord old = record(0, 2, {barrier(1, 0)}, 100);
  EXPECT_THAT(
      lines(diagnose_all({old, record(1, 2, {all_reduce(1, 5)}, 210), record(0, 2, {all_reduce(1, 5)}, 200)})),
      ElementsAre(
          HasSubstr("unfinished: all 2 ranks started all_reduce #1"),
          "spare_record: rank 0 has more than one record; the older one was left out: flight_world_rank0.json"));
}

TEST(FlightGroups, RankLists) {
  EXPECT_EQ(rank_list({2}), "rank 2");
  EXPECT_EQ(rank_list({0, 1, 2}), "ranks 0, 1, 2");
  EXPECT_EQ(rank_list({0, 1, 2, 3, 7, 9, 10, 11, 12, 13}), "ranks 0-3, 7, 9-13");
  EXPECT_EQ(rank_list({0, 2, 4, 6, 8, 10, 12, 14}), "ranks 0, 2, 4, 6, 8, 10, 12, 14");
  EXPECT_EQ(rank_list({0, 2, 4, 6, 8, 10, 12, 14, 16, 17, 18}), "ranks 0, 2, 4, 6, 8, 10, 12, 14 and 3 more");
  EXPECT_EQ(duration_text(0), "0 ms");
  EXPECT_EQ(duration_text(999), "999 ms");
  EXPECT_EQ(duration_text(14249), "14.2 s");
}

}  // namespace
}  // namespace lockstep::doctor
