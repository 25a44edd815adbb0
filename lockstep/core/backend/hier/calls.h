#pragma once
// What ranks tell each other once something is wrong, so that the error says what the caller wants to know: which calls
// were made, since a step that does not fit another's says little to who wrote the calls; and who waits for whom, since
// a rank that is missing keeps all others from each other.

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/core/backend/wire/header.h"
#include "lockstep/core/backend/wire/transport.h"

namespace lockstep::hier {

/// Thread safety: one thread at a time.
class Calls {
 public:
  explicit Calls(wire::Transport& transport);

  /// Remembers a call of this rank; returns what its steps carry as Collective::origin.
  std::uint64_t add(const Collective& call);
  /// Once the group has failed in call number `sequence`: tells the other ranks what this one called around it and
  /// hears what they did, for at most `patience`. "rank 0 calls .., rank 2 calls ..", of the first that differ; empty
  /// where none came to light.
  const std::string& disagreement(std::uint64_t sequence, Duration patience);

  /// At a deadline: tells the other ranks for whom this one waits.
  void say_waits_for(int rank);
  /// Another rank's deadline has passed and it said so; this rank has not said yet for whom it waits.
  bool asked() const;
  /// The end of the chain of those who said for whom they wait: a rank that did not say so, from `rank` on.
  int last_awaited(int rank) const;

 private:
  static constexpr std::uint64_t kKept = 512;  ///< more than can be in flight
  static constexpr std::uint64_t kTold = 32;   ///< calls
  static constexpr std::uint64_t kBefore = 8;  ///< of them: a rank may have done its part of one that others dispute
  using Window = std::array<wire::Header, kTold>;  ///< sequence 0: no such call

  Window around(std::uint64_t sequence) const;
  const Window* known(int rank) const;
  std::string difference(int rank, int peer) const;

  wire::Transport& transport_;
  std::vector<wire::Header> kept_;  ///< call number n at n % kKept
  Window mine_{};
  std::vector<Window> told_;  ///< a rank each
  // Posted from the start: a rank that has told its calls need not wait for who hears of the failure late.
  std::vector<std::unique_ptr<wire::Transfer>> receives_;
  std::vector<std::unique_ptr<wire::Transfer>> sends_;
  std::string text_;
  std::int32_t waits_for_ = -1;
  std::vector<std::int32_t> others_wait_for_;
  std::vector<std::unique_ptr<wire::Transfer>> heard_waiting_;
  std::vector<std::unique_ptr<wire::Transfer>> said_waiting_;
};

}  // namespace lockstep::hier
