// Messages in shared memory where the ranks are not equally far with an allocation.

#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/backend/shm/mailbox.h"
#include "lockstep/core/base/error.h"
#include "tests/support/ranks.h"

namespace lockstep::shm {
namespace {

constexpr std::size_t kNbytes = 20011;

/// The segments of two ranks, on this thread.
class ShmMailbox : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto store = make_memory_store();
    support::run_ranks(2, [&](int rank) {
      const Meeting meeting{"world", rank, 2, Deadline::after(std::chrono::seconds(60)), {}};
      segments_[static_cast<std::size_t>(rank)] = std::make_unique<Segment>(*store, meeting);
    });
    for (const auto& segment : segments_) segment->reserve(kNbytes);
  }
  Segment& segment(std::size_t rank) { return *segments_[rank]; }
  static Message message(OpKind kind, int peer, void* buffer, std::uint64_t id) {
    return {kind, DType::kUInt8, peer, 0, kNbytes, buffer, id, {}};
  }

 private:
  std::array<std::unique_ptr<Segment>, 2> segments_;
};

TEST_F(ShmMailbox, AMessageInMemoryThatIsNotMappedYetStaysWhereItIs) {
  Mailbox receiver(segment(0));
  Mailbox sender(segment(1));
  std::vector<unsigned char> received(kNbytes);
  receiver.start(message(OpKind::kRecv, 1, received.data(), 1));
  // Rank 1 is through with allocate(), rank 0 is not.
  const BackendMemory theirs = segment(1).map_reserved();
  std::memset(theirs.data, 7, kNbytes);
  sender.start(message(OpKind::kSend, 0, theirs.data, 1));
  sender.progress();
  EXPECT_FALSE(receiver.progress());
  EXPECT_FALSE(receiver.completed(1));
  EXPECT_FALSE(receiver.has_news()) << "a rank that sleeps would not";

  const BackendMemory mine = segment(0).map_reserved();
  EXPECT_TRUE(receiver.progress());
  EXPECT_TRUE(receiver.completed(1));
  EXPECT_EQ(received, std::vector<unsigned char>(kNbytes, 7));
  sender.progress();
  EXPECT_TRUE(sender.completed(1));
}

TEST_F(ShmMailbox, AMessageInMemoryThatWasFreedIsAnError) {
  Mailbox receiver(segment(0));
  Mailbox sender(segment(1));
  std::vector<unsigned char> received(kNbytes);
  BackendMemory mine = segment(0).map_reserved();
  const BackendMemory theirs = segment(1).map_reserved();
  mine = {};
  receiver.start(message(OpKind::kRecv, 1, received.data(), 1));
  sender.start(message(OpKind::kSend, 0, theirs.data, 1));
  sender.progress();
  try {
    receiver.progress();
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_THAT(std::string(error.what()), ::testing::HasSubstr("that this rank has freed"));
  }
}

}  // namespace
}  // namespace lockstep::shm
