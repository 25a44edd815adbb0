#pragma once
// Carries the plans of one group out over a transport, without ever waiting; and waits, where asked to.

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lockstep/core/backend/buffers.h"
#include "lockstep/core/backend/in_flight_engine.h"
#include "lockstep/core/backend/wire/header.h"
#include "lockstep/core/backend/wire/links.h"
#include "lockstep/core/backend/wire/messages.h"
#include "lockstep/core/backend/wire/plan.h"

namespace lockstep::wire {

/// Thread safety: one thread at a time, but for progress_from_elsewhere() and abort(). Failure: the group's, as typed
/// errors. Held by shared_ptr, since a thread that has something in flight here keeps a weak one.
class Engine final : public InFlightEngine {
 public:
  Engine(std::shared_ptr<Transport> transport, std::string group);
  ~Engine() override;

  Transport& transport() noexcept { return *transport_; }
  const Constants& constants() const noexcept { return constants_; }
  /// Collective, once, before the first operation: measures what the choice of algorithms needs.
  void measure(Deadline deadline);

  void start(const Collective& collective, Deadline deadline);
  bool test(std::uint64_t sequence);
  void wait(std::uint64_t sequence, Deadline deadline);

  void start(const Message& message);
  bool test_message(std::uint64_t id);
  void wait_message(std::uint64_t id, Deadline deadline);
  int take_source_of(std::uint64_t id) { return messages_.take_source_of(id); }

  int look_after(std::span<const int> ranks);
  void abort(std::string_view cause) noexcept;
  /// Of a group that has failed: tells the peers where nobody has, and ends the connections.
  void close() noexcept;
  PeerState last_seen(int rank) const;

 private:
  static constexpr std::uint64_t kCapacity = 256;  ///< operations in flight

  struct Operation {
    Collective collective;
    Plan plan;
    Extent extent;
    std::vector<std::size_t> offsets;
    std::vector<std::size_t> recv_offsets;
    std::vector<double> factors;  ///< a rank each, as they are heard; for kPreMulSum
    Header header;                ///< what this rank says
    std::uint64_t number = 0;     ///< place in the group's order, 1, 2, 3 ...; those of measure() count
    std::uint64_t after = 0;      ///< may begin once the operation of this number is finished here
    bool begun = false;
    std::uint64_t posted = 0;    ///< pieces
    std::uint64_t finished = 0;  ///< pieces
    std::vector<bool> heard;     ///< ranks whose header has come and says the same
    int unheard = 0;
    // Where the first exchange rides in the headers: the only piece.
    Piece piece;
    std::vector<std::byte> scratch;
  };
  /// A piece in flight.
  struct Flight {
    Operation* operation;
    Piece piece;
    std::size_t slot;  ///< of scratch
    bool combined = false;
    std::vector<std::unique_ptr<Transfer>> first_sends;
    std::vector<std::unique_ptr<Transfer>> first_recvs;
    std::vector<std::unique_ptr<Transfer>> second_sends;
    std::vector<std::unique_ptr<Transfer>> second_recvs;
  };
  struct Peer {
    std::unique_ptr<Incoming> headers;
    std::uint64_t heard = 0;  ///< number of the last operation that it has been heard of
    PeerState seen;
    Clock::time_point seen_at{};
  };
  /// What a caller waits for: an operation's number, or a message's.
  struct Goal {
    std::uint64_t number;
    bool is_message;
  };

  Goal goal_of(std::uint64_t sequence) const noexcept { return {sequence + measured_, false}; }
  bool finished(std::uint64_t number) const noexcept { return number <= finished_; }
  bool reached(const Goal& goal) const {
    return goal.is_message ? messages_.completed(goal.number) : finished(goal.number);
  }
  bool idle() const noexcept override { return operations_.empty() && messages_.idle(); }
  View view_of(const Operation& operation) const;
  /// Where a part lies, with the scratch of its piece.
  static std::byte* place(const Operation& operation, std::byte* scratch, const Part& part);
  std::byte* place(const Flight& flight, const Part& part) {
    return place(*flight.operation, scratch_[flight.slot].data(), part);
  }

  void append(const Collective& collective);
  bool progress() override;
  bool has_ended() noexcept override { return failure_.poll(); }
  bool begin_operations();
  void begin(Operation& operation);
  bool listen();
  bool hear(Operation& operation, int peer);
  void check_agreement(const Operation& operation, int peer, const Header& theirs);
  bool post_pieces();
  void post(Operation& operation, std::uint64_t index);
  bool move(Flight& flight, bool may_combine);
  void start_sends(Flight& flight, const Exchange& exchange, int channel,
                   std::vector<std::unique_ptr<Transfer>>& transfers);
  bool first_is_complete(Flight& flight);
  void combine(const Operation& operation, const Piece& piece, std::byte* scratch) const;
  bool retire();

  bool test(const Goal& goal);
  void wait(const Goal& goal, const Deadline& deadline);
  /// Of a goal that is reached: throws where it may hold what a sender wrote to its buffer after it had given up.
  void require_sound(const Goal& goal);
  void back_off(std::uint64_t polls, const Deadline& deadline, const Goal& goal);
  void sleep(const Goal& goal);
  Transfer* blocking_transfer(const Goal& goal);
  bool blocks(const Goal& goal, int peer) const;
  int blocking_rank(const Goal& goal) const;
  std::string missing_ranks(const Goal& goal) const;
  std::string doing(const Goal& goal) const;
  void check_peers(const Goal& goal);
  [[noreturn]] void fail_for(int peer, const Goal& goal);
  void time_out(const Deadline& deadline, const Goal& goal);

  std::shared_ptr<Transport> transport_;
  std::string group_;
  int rank_;
  int world_size_;
  Constants constants_;
  FailureBox failure_;
  std::vector<Peer> peers_;
  Outgoing outgoing_;
  Messages messages_;
  std::deque<std::unique_ptr<Operation>> operations_;  ///< in flight, in order
  std::deque<Flight> flights_;                         ///< in order
  std::vector<std::vector<std::byte>> scratch_;        ///< kPiecesInFlight of them, used in turn
  std::uint64_t posted_pieces_ = 0;
  std::uint64_t appended_ = 0;
  std::uint64_t begun_ = 0;
  std::uint64_t finished_ = 0;
  std::uint64_t measured_ = 0;  ///< operations of measure()
  Clock::time_point last_check_{};
};

}  // namespace lockstep::wire
