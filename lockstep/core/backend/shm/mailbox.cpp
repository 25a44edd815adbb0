// Note [Messages]: each ordered pair of ranks has a ring of kRingBytes and two counters, of bytes written and bytes
// read since the beginning (Channel in layout.h). A message is one record or several, each a header of 64 bytes and up
// to kRecordBytes of data, in one piece: a record that would not fit before the end of the ring is cut short there.
// A message in backend memory is one record that says where it lies, and the receiver reads it there.
// What is written and what is read in order is all there is: no acknowledgements, no handshake.

#include "lockstep/core/backend/shm/mailbox.h"

#include <algorithm>
#include <cstring>

#include "lockstep/core/backend/shm/doorbell.h"
#include "lockstep/core/backend/shm/failure.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/kernels/kernels.h"

namespace lockstep::shm {
namespace {

constexpr std::size_t kRecordBytes = (32u << 10) - 64;
constexpr std::size_t kReadAtOnce = 4096;  ///< from here on the receiver reads from backend memory itself

enum class RecordKind : std::uint32_t { kPadding, kData, kAddress };

}  // namespace

struct Mailbox::Record {
  RecordKind kind;
  std::uint32_t nbytes;  ///< of data behind the header
  // Of the message; the same in each of its records.
  std::uint64_t count;
  std::int32_t tag;
  std::uint32_t dtype;
  SharedAddress address;
  std::uint64_t unused[4];

  std::size_t size() const { return sizeof(Record) + round_up(nbytes, sizeof(Record)); }
};

Mailbox::Mailbox(Segment& segment)
    : segment_(segment), inbox_(segment.rank()), peers_(static_cast<std::size_t>(segment.world_size())) {
  static_assert(sizeof(Record) == 64);
}

void Mailbox::start(const Message& message) {
  if (message.kind == OpKind::kRecv) return inbox_.post(message);
  const std::size_t nbytes = message.count * size_of(message.dtype);
  Outgoing outgoing{message, {}};
  if (nbytes >= kReadAtOnce) outgoing.address = segment_.locate(message.buffer, nbytes);
  segment_.require_ring(message.peer);
  peers_[static_cast<std::size_t>(message.peer)].outgoing.push_back(outgoing);
  ++sends_in_flight_;
  sent_to_[message.id % sent_to_.size()] = {message.id, message.peer};
}

bool Mailbox::progress() {
  bool moved = false;
  for (int peer = 0; peer < segment_.world_size(); ++peer) {
    moved |= send_more(peer);
    if (inbox_.pending()) moved |= receive_more(peer);
  }
  return moved;
}

// ---- sending ----

bool Mailbox::send_more(int to) {
  Peer& peer = peers_[static_cast<std::size_t>(to)];
  if (peer.outgoing.empty()) return false;
  Channel& channel = segment_.channel(segment_.rank(), to);
  peer.read_by_peer = channel.read.load(std::memory_order_acquire);
  bool moved = false;
  for (Outgoing& outgoing : peer.outgoing) {
    if (outgoing.end != 0) continue;
    while (outgoing.end == 0 && write_record(to, outgoing)) moved = true;
    if (outgoing.end == 0) break;
  }
  // A message that the receiver reads where it lies is complete when it has been read.
  while (!peer.outgoing.empty()) {
    const Outgoing& first = peer.outgoing.front();
    if (first.end == 0 || (first.address.allocation != 0 && peer.read_by_peer < first.end)) break;
    peer.outgoing.pop_front();
    --sends_in_flight_;
    moved = true;
  }
  return moved;
}

bool Mailbox::write_record(int to, Outgoing& outgoing) {
  Peer& peer = peers_[static_cast<std::size_t>(to)];
  const Message& message = outgoing.message;
  const std::size_t at = peer.written % kRingBytes;
  const std::size_t room = std::min<std::size_t>(kRingBytes - at, kRingBytes - (peer.written - peer.read_by_peer));
  if (room < sizeof(Record)) return false;
  const bool by_address = outgoing.address.allocation != 0;
  const std::size_t left = by_address ? 0 : message.count * size_of(message.dtype) - outgoing.sent;
  Record record{RecordKind::kData, 0, message.count, message.tag, static_cast<std::uint32_t>(message.dtype), {}, {}};
  if (by_address) {
    record.kind = RecordKind::kAddress;
    record.address = outgoing.address;
  } else if (left != 0) {
    record.nbytes = static_cast<std::uint32_t>(std::min({left, kRecordBytes, room - sizeof(Record)}));
    if (record.nbytes == 0) {
      // Room for a header alone: of use only where the ring ends there.
      if (kRingBytes - at != sizeof(Record)) return false;
      record.kind = RecordKind::kPadding;
    }
  }
  std::byte* const place = segment_.message_ring(segment_.rank(), to) + at;
  std::memcpy(place, &record, sizeof record);
  if (record.nbytes != 0) {
    kernels::copy(place + sizeof record, static_cast<const std::byte*>(message.buffer) + outgoing.sent, record.nbytes);
  }
  outgoing.sent += record.nbytes;
  peer.written += record.size();
  if (record.kind != RecordKind::kPadding && record.nbytes == left) outgoing.end = peer.written;
  segment_.channel(segment_.rank(), to).written.store(peer.written, std::memory_order_release);
  wake_those_who_wait(segment_);
  return true;
}

// ---- receiving ----

bool Mailbox::receive_more(int from) {
  Peer& peer = peers_[static_cast<std::size_t>(from)];
  Channel& channel = segment_.channel(from, segment_.rank());
  peer.written_by_peer = channel.written.load(std::memory_order_acquire);
  bool moved = false;
  while (peer.read < peer.written_by_peer) {
    Record record;
    std::memcpy(&record, segment_.message_ring(from, segment_.rank()) + peer.read % kRingBytes, sizeof record);
    if (record.kind != RecordKind::kPadding && !read_record(from, record)) break;
    peer.read += record.size();
    channel.read.store(peer.read, std::memory_order_release);
    wake_those_who_wait(segment_);
    moved = true;
  }
  return moved;
}

bool Mailbox::read_record(int from, const Record& record) {
  Peer& peer = peers_[static_cast<std::size_t>(from)];
  const auto dtype = static_cast<DType>(record.dtype);
  // The peer was through with allocate() first, which this rank is in: the call after it looks again.
  if (record.kind == RecordKind::kAddress && !segment_.has_mapped(record.address)) return false;
  if (peer.arriving == nullptr) {
    peer.arriving = inbox_.begin({from, record.tag, dtype, record.count});
    peer.received = 0;
  }
  if (peer.arriving == nullptr) return false;
  std::byte* const destination = peer.arriving->destination + peer.received;
  const std::size_t nbytes = record.count * size_of(dtype);
  if (record.kind == RecordKind::kAddress) {
    const std::byte* const source = segment_.resolve(from, record.address);
    LS_REQUIRE(source != nullptr, "recv from rank ", from, " with tag ", record.tag,
               ": the message lies in backend memory that this rank has freed; keep an allocation until all ranks are "
               "done with it");
    kernels::copy(destination, source, nbytes);
    if (has_failed_meanwhile(segment_)) return false;
    peer.received = nbytes;
  } else if (record.nbytes != 0) {
    const std::byte* const ring = segment_.message_ring(from, segment_.rank());
    kernels::copy(destination, ring + peer.read % kRingBytes + sizeof record, record.nbytes);
    peer.received += record.nbytes;
  }
  if (peer.received == nbytes) {
    inbox_.end(peer.arriving);
    peer.arriving = nullptr;
  }
  return true;
}

// ---- what is in flight ----

const Mailbox::Outgoing* Mailbox::find(std::uint64_t id) const {
  if (sends_in_flight_ == 0) return nullptr;
  const auto& [sent, peer] = sent_to_[id % sent_to_.size()];
  const auto search = [id](const Peer& each) -> const Outgoing* {
    const auto found = std::find_if(each.outgoing.begin(), each.outgoing.end(),
                                    [id](const Outgoing& outgoing) { return outgoing.message.id == id; });
    return found == each.outgoing.end() ? nullptr : &*found;
  };
  if (sent == id) return search(peers_[static_cast<std::size_t>(peer)]);
  for (const Peer& each : peers_) {
    if (const Outgoing* const found = search(each)) return found;
  }
  return nullptr;
}

bool Mailbox::completed(std::uint64_t id) const { return find(id) == nullptr && !inbox_.holds(id); }

int Mailbox::take_source_of(std::uint64_t id) { return inbox_.take_source_of(id); }

int Mailbox::awaited(std::uint64_t id) const {
  if (const Outgoing* const outgoing = find(id)) return outgoing->message.peer;
  if (const Message* const receive = inbox_.posted(id)) return receive->peer;
  for (std::size_t from = 0; from < peers_.size(); ++from) {
    if (peers_[from].arriving != nullptr && peers_[from].arriving->id == id) return static_cast<int>(from);
  }
  return kAnySource;
}

bool Mailbox::has_news() const {
  for (int peer = 0; peer < segment_.world_size(); ++peer) {
    const Peer& known = peers_[static_cast<std::size_t>(peer)];
    const std::uint64_t read = segment_.channel(segment_.rank(), peer).read.load(std::memory_order_acquire);
    if (!known.outgoing.empty() && read != known.read_by_peer) return true;
    const std::uint64_t written = segment_.channel(peer, segment_.rank()).written.load(std::memory_order_acquire);
    if (inbox_.pending() && written != known.written_by_peer) return true;
  }
  return false;
}

std::string Mailbox::doing(std::uint64_t id) const {
  if (const Outgoing* const outgoing = find(id)) return describe(outgoing->message);
  if (const Message* const receive = inbox_.posted(id)) return describe(*receive);
  return base::cat("message #", id);
}

}  // namespace lockstep::shm
