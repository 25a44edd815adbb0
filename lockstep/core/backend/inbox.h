#pragma once
// The receiving side of messages: which receive takes which message.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <string>
#include <vector>

#include "lockstep/core/backend/backend.h"

namespace lockstep {

/// Matches receives and messages, each in order, by source and tag. A message that comes before its receive is kept
/// only where a receive waits for something behind it.
///
/// Thread safety: one thread at a time.
class Inbox {
 public:
  static constexpr std::size_t kKeptBytes = std::size_t{256} << 20;  ///< of messages that no receive has taken yet

  /// What a message says of itself before its bytes.
  struct Header {
    int source = 0;
    int tag = 0;
    DType dtype{};
    std::uint64_t count = 0;
  };
  /// A message whose bytes are arriving, or have arrived and are kept.
  struct Arriving {
    Header header;
    std::byte* destination = nullptr;  ///< where the bytes go
    std::uint64_t id = 0;              ///< of the receive that takes it; 0: none yet
    void* buffer = nullptr;            ///< of that receive
    bool from_any = false;             ///< that receive's source is kAnySource
    bool complete = false;
    std::vector<std::byte> kept = {};
  };

  explicit Inbox(int rank) : rank_(rank) {}

  /// Begins a receive. Throws MismatchError where the message that it takes is of another count or dtype.
  void post(const Message& receive);
  /// A message begins to arrive. Null where no receive takes it and none waits for what is behind it, or there is no
  /// room to keep it: then it stays where it is. Throws as post().
  Arriving* begin(const Header& header);
  /// All of its bytes are there. `arriving` must not be used any more.
  void end(Arriving* arriving);

  /// True while a receive is not complete.
  bool pending() const noexcept { return incomplete_ != 0; }
  /// True while the receive `id` is not complete.
  bool holds(std::uint64_t id) const;
  /// The posted receive `id`; null when it is complete or takes bytes already.
  const Message* posted(std::uint64_t id) const;
  /// Where the message of a completed receive from any rank came from, the first time that it is asked; else -1.
  int take_source_of(std::uint64_t id);
  /// "1 message from rank 2 with tag 5 (4 f32)": what has come and nobody has received; empty when nothing.
  std::string unclaimed() const;

 private:
  static bool matches(const Message& receive, const Header& header);
  void check(const Message& receive, const Header& header) const;
  void take(Arriving& arriving);

  int rank_;
  std::deque<Message> receives_;  // Posted and not matched, in order.
  std::list<Arriving> arriving_;  // In the order of arrival; a list, since callers hold pointers.
  std::size_t kept_nbytes_ = 0;
  std::size_t incomplete_ = 0;
  // Of completed receives from any rank, until somebody asks. Nobody may: the newest kRemembered.
  static constexpr std::size_t kRemembered = 1 << 16;
  std::map<std::uint64_t, int> sources_;
};

}  // namespace lockstep
