#pragma once
// Messages between two ranks, through a ring for each ordered pair. See Note [Messages] in mailbox.cpp.

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "lockstep/core/backend/inbox.h"
#include "lockstep/core/backend/shm/segment.h"

namespace lockstep::shm {

/// Thread safety: one thread at a time. Nothing here waits.
class Mailbox {
 public:
  explicit Mailbox(Segment& segment);

  /// Begins a message; Message::peer must be a rank of the group (or kAnySource). Throws MismatchError.
  void start(const Message& message);
  /// Moves every message as far as it goes; true when something moved.
  bool progress();

  /// True when nothing is in flight.
  bool idle() const noexcept { return sends_in_flight_ == 0 && !inbox_.pending(); }
  bool completed(std::uint64_t id) const;
  /// Of a completed receive from any rank: where it came from.
  int take_source_of(std::uint64_t id);
  /// The rank that a message in flight waits for: its peer; kAnySource.
  int awaited(std::uint64_t id) const;
  /// True when a peer has written or read something since progress() last looked.
  bool has_news() const;
  /// "send #7 (...)", of a message in flight.
  std::string doing(std::uint64_t id) const;
  /// Inbox::unclaimed().
  std::string unclaimed() const { return inbox_.unclaimed(); }

 private:
  struct Outgoing {
    Message message;
    SharedAddress address;  ///< of the buffer, where the receiver can read it itself
    std::size_t sent = 0;   ///< bytes
    std::uint64_t end = 0;  ///< where its last record ends; 0: not written yet
  };
  /// One peer's two rings, as this rank knows them.
  struct Peer {
    std::deque<Outgoing> outgoing;      // Not completed, in order.
    std::uint64_t written = 0;          // To the peer.
    std::uint64_t read_by_peer = 0;     // Last seen.
    std::uint64_t read = 0;             // From the peer.
    std::uint64_t written_by_peer = 0;  // Last seen.
    Inbox::Arriving* arriving = nullptr;
    std::size_t received = 0;  // Bytes of it.
  };

  struct Record;

  bool send_more(int to);
  bool write_record(int to, Outgoing& outgoing);
  bool receive_more(int from);
  bool read_record(int from, const Record& record);
  const Outgoing* find(std::uint64_t id) const;

  Segment& segment_;
  Inbox inbox_;
  std::vector<Peer> peers_;
  std::size_t sends_in_flight_ = 0;
  std::array<std::pair<std::uint64_t, int>, 1024> sent_to_{};
};

}  // namespace lockstep::shm
