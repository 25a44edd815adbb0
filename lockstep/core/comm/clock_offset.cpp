#include "lockstep/core/comm/clock_offset.h"

#include "lockstep/core/base/deadline.h"

namespace lockstep {
namespace {

constexpr int kQuestions = 32;  // of each rank; whatever else runs on a host only ever makes a round trip longer

}  // namespace

ClockOffset offset_of_question(std::int64_t asked_ns, std::int64_t answer_ns, std::int64_t round_trip_ns) {
  const std::int64_t half = (round_trip_ns + 1) / 2;
  return {asked_ns + half - answer_ns, half};
}

ClockOffset measure_clock_offset(Communicator& communicator, std::int64_t (*read_clock_ns)(), int tag) {
  std::uint8_t question = 0;
  std::int64_t answer = 0;
  if (communicator.rank() == 0) {
    for (int peer = 1; peer < communicator.world_size(); ++peer) {
      for (int i = 0; i < kQuestions; ++i) {
        communicator.recv(&question, 1, DType::kUInt8, peer, tag);
        answer = read_clock_ns();
        communicator.send(&answer, 1, DType::kInt64, peer, tag);
      }
    }
    return {};
  }
  ClockOffset best;
  for (int i = 0; i < kQuestions; ++i) {
    const auto start = Clock::now();  // another clock: that of the day may jump meanwhile
    const std::int64_t asked = read_clock_ns();
    communicator.send(&question, 1, DType::kUInt8, 0, tag);
    communicator.recv(&answer, 1, DType::kInt64, 0, tag);
    const Duration round_trip = Clock::now() - start;
    const ClockOffset offset = offset_of_question(asked, answer, round_trip.count());
    if (i == 0 || offset.error_ns < best.error_ns) best = offset;
  }
  return best;
}

}  // namespace lockstep
