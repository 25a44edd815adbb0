#pragma once
// Messages between two ranks over a transport. Small ones travel with their header; a large one waits for its receive.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/core/backend/inbox.h"
#include "lockstep/core/backend/wire/links.h"

namespace lockstep::wire {

/// Thread safety: one thread at a time. Nothing here waits.
class Messages {
 public:
  explicit Messages(Transport& transport);

  /// Begins a message; Message::peer must be a rank of the group (or kAnySource). Throws MismatchError.
  void start(const Message& message);
  /// Moves every message as far as it goes; true when something moved. Throws MismatchError.
  bool progress();

  /// True when nothing is in flight.
  bool idle() const noexcept { return sending_.empty() && !inbox_.pending() && outgoing_.empty(); }
  bool completed(std::uint64_t id) const;
  /// Of a completed receive from any rank: where it came from.
  int take_source_of(std::uint64_t id) { return inbox_.take_source_of(id); }
  /// The rank that a message in flight waits for: its peer; kAnySource.
  int awaited(std::uint64_t id) const;
  /// What to wait for, of a message in flight; null where it may be several things.
  Transfer* transfer_of(std::uint64_t id);
  /// "send #7 (...)", of a message in flight.
  std::string doing(std::uint64_t id) const;
  std::string unclaimed() const { return inbox_.unclaimed(); }

 private:
  /// A small message is complete once it is copied, as long as no more than this is under way to its receiver.
  static constexpr std::size_t kBufferedBytes = 1u << 20;

  struct Sending {
    Message message;
    std::unique_ptr<Transfer> transfer;  ///< of a large one's bytes
    bool begun = false;                  ///< else it waits for room
  };
  struct Receiving {
    Inbox::Arriving* arriving;
    std::unique_ptr<Transfer> transfer;
  };
  struct Peer {
    std::unique_ptr<Incoming> headers;
    std::uint64_t large_messages = 0;  ///< sent
    std::deque<Sending*> waiting;      ///< for room, in order
  };
  struct ToSelf {
    Inbox::Header header;
    std::vector<std::byte> bytes;
  };

  bool is_self(int rank) const noexcept { return rank == transport_.rank(); }
  bool begin(Sending& sending);
  bool drop_sent();
  bool receive_from(int peer);
  bool receive_from_self();

  Transport& transport_;
  Inbox inbox_;
  Outgoing outgoing_;
  std::vector<Peer> peers_;
  std::list<Sending> sending_;
  std::list<Receiving> receiving_;
  std::deque<ToSelf> to_self_;
};

}  // namespace lockstep::wire
