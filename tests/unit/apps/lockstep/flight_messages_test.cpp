#include "apps/lockstep/doctor/flight_messages.h"

#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/apps/lockstep/flight_records.h"

namespace lockstep::doctor {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::StartsWith;

FlightRecord with(int rank, int world_size, std::vector<FlightOperation> messages, std::int64_t written_ms = 10000) {
  FlightRecord out = record(rank, world_size, {}, written_ms);
  out.messages = std::move(messages);
  return out;
}

std::vector<std::string> unmatched(std::vector<FlightRecord> records) {
  std::vector<std::string> out;
  for (const Finding& finding : unmatched_messages(flight_groups(std::move(records)).at(0)))
    out.push_back(finding.text);
  return out;
}

TEST(FlightMessages, AReceiveWithoutASend) {
  const std::vector<FlightRecord> records = {with(0, 2, {message(1, "recv", 1, 7, 100)}),
                                             with(1, 2, {message(1, "send", 0, 8, 100, 101)})};
  const auto findings = diagnose_all(records);
  EXPECT_THAT(lines(findings),
              ElementsAre("unmatched_message: rank 1 never sent a message with tag 7 to rank 0; rank 0 "
                          "waited in recv #1 (4 f32, tag 7, from rank 1)"));
  EXPECT_THAT(findings[0].ranks, ElementsAre(1));
  EXPECT_THAT(findings[0].waiting, ElementsAre(0));
  EXPECT_EQ(findings[0].kind, "recv");
  EXPECT_EQ(findings[0].sequence, 1u);
}

TEST(FlightMessages, NumbersOfMessagesAreNotThoseOfCollectives) {
  std::vector<FlightRecord> records = {record(0, 2, {barrier(1, 0, 5)}), record(1, 2, {barrier(1, 0, 5)})};
  records[0].messages = {message(1, "send", 1, 0, 6, 7)};
  records[1].messages = {message(1, "recv", 0, 0, 6, 7)};
  EXPECT_EQ(diagnose_all(records).at(0).finding, "nothing");
}

TEST(FlightMessages, ComeBeforeACollectiveThatAllAreInAndAfterAMissingRank) {
  std::vector<FlightRecord> records = {record(0, 2, {all_reduce(1, 5)}), record(1, 2, {all_reduce(1, 5)})};
  records[0].messages = {message(1, "recv", 1, 7, 6)};
  EXPECT_THAT(lines(diagnose_all(records)), ElementsAre(StartsWith("unmatched_message: "), StartsWith("unfinished: ")));
  records[1].collectives.clear();
  EXPECT_THAT(lines(diagnose_all(records)),
              ElementsAre(StartsWith("never_started: "), StartsWith("unmatched_message: ")));
}

TEST(FlightMessages, OnlyWhatWasPostedTwiceIsMissing) {
  EXPECT_THAT(
      unmatched({with(0, 2, {message(1, "recv", 1, 7, 0, 5), message(2, "recv", 1, 7, 6), message(3, "recv", 1, 7, 7)}),
                 with(1, 2, {message(1, "send", 0, 7, 0, 4)})}),
      ElementsAre("rank 1 sent only 1 with tag 7 to rank 0, and this is number 2; rank 0 waited in recv #2 (4 "
                  "f32, tag 7, from rank 1)"));
  // The send is there, under way: nothing to say.
  EXPECT_THAT(unmatched({with(0, 2, {message(1, "recv", 1, 7, 0)}), with(1, 2, {message(1, "send", 0, 7, 0)})}),
              IsEmpty());
}

TEST(FlightMessages, ASendWithoutAReceive) {
  EXPECT_THAT(
      unmatched({with(0, 2, {message(1, "send", 1, 3, 0)}), with(1, 2, {})}),
      ElementsAre("rank 1 never received a message with tag 3 from rank 0; rank 0 waited in send #1 (4 f32, tag "
                  "3, to rank 1)"));
  EXPECT_THAT(unmatched({with(0, 2, {message(1, "send", 1, 3, 0, 5)}), with(1, 2, {})}), IsEmpty());
}

TEST(FlightMessages, APeerWithoutARecord) {
  EXPECT_THAT(unmatched({with(0, 2, {message(1, "recv", 1, 7, 0)})}),
              ElementsAre("rank 0 waited in recv #1 (4 f32, tag 7, from rank 1), and rank 1 left no record"));
}

TEST(FlightMessages, ASendThatCameTooLate) {
  EXPECT_THAT(
      unmatched({with(0, 2, {message(1, "recv", 1, 7, 0)}, 1000), with(1, 2, {message(1, "send", 0, 7, 1250)}, 1260)}),
      ElementsAre("rank 1 sent a message with tag 7 to rank 0 only 250 ms after that had given up; rank 0 waited "
                  "in recv #1 (4 f32, tag 7, from rank 1)"));
}

TEST(FlightMessages, ARecordThatHasLostItsFirstMessagesProvesLess) {
  EXPECT_THAT(unmatched({with(0, 2, {message(40, "recv", 1, 7, 0, 1), message(41, "recv", 1, 7, 2)}),
                         with(1, 2, {message(30, "send", 0, 7, 0, 1)})}),
              IsEmpty());
  EXPECT_THAT(
      unmatched({with(0, 2, {message(1, "recv", 1, 7, 0)}), with(1, 2, {message(30, "send", 0, 8, 0, 1)})}),
      ElementsAre("rank 1 sent no such message as far as its record goes back (to message #30); rank 0 waited in "
                  "recv #1 (4 f32, tag 7, from rank 1)"));
}

TEST(FlightMessages, ReceivesFromAnyRank) {
  const std::vector<FlightOperation> two = {message(1, "recv", kAnyPeer, 7, 0, 5), message(2, "recv", kAnyPeer, 7, 6)};
  EXPECT_THAT(
      unmatched({with(0, 3, two), with(1, 3, {}), with(2, 3, {message(1, "send", 0, 7, 0, 4)})}),
      ElementsAre("no rank sent a message with tag 7 to rank 0 beyond those it received; rank 0 waited in recv #2 "
                  "(4 f32, tag 7, from any rank)"));
  // Either nobody knows what the third rank sent, or there is a send that it may take.
  EXPECT_THAT(unmatched({with(0, 3, two), with(2, 3, {message(1, "send", 0, 7, 0, 4)})}), IsEmpty());
  EXPECT_THAT(unmatched({with(0, 3, two), with(1, 3, {message(1, "send", 0, 7, 0)}),
                         with(2, 3, {message(1, "send", 0, 7, 0, 4)})}),
              IsEmpty());
  // A receive from any rank may have taken the message of the rank that another waits for.
  EXPECT_THAT(unmatched({with(0, 2, {message(1, "recv", kAnyPeer, 7, 0, 5), message(2, "recv", 1, 7, 6)}),
                         with(1, 2, {message(1, "send", 0, 7, 0, 4)})}),
              IsEmpty());
}

}  // namespace
}  // namespace lockstep::doctor
