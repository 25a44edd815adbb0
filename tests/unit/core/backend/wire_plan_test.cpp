// The plans between hosts as mathematics: what one rank sends is what the other expects, every element is moved, and a
// rank sends the bytes that docs/design/0010-between-hosts.md states.

#include <algorithm>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/core/backend/buffers.h"
#include "lockstep/core/backend/wire/plan.h"

namespace lockstep::wire {
namespace {

constexpr OpKind kKinds[] = {OpKind::kAllReduce, OpKind::kReduce, OpKind::kReduceScatter, OpKind::kBroadcast,
                             OpKind::kAllGather, OpKind::kGather, OpKind::kScatter,       OpKind::kAllToAll};

Collective call_of(OpKind kind, std::size_t count, int root = 0) {
  Collective call;
  call.kind = kind;
  call.dtype = DType::kFloat32;
  call.count = count;
  call.root = root;
  return call;
}

std::size_t sent(const Exchange& exchange, int rank) {
  std::size_t nbytes = 0;
  for (std::size_t to = 0; to < exchange.sends.size(); ++to) {
    if (static_cast<int>(to) != rank) nbytes += exchange.sends[to].nbytes;
  }
  return nbytes;
}

/// All pieces of an operation on all ranks: pieces[index][rank].
std::vector<std::vector<Piece>> all_pieces(const Collective& call, const Plan& plan, int world) {
  std::vector<std::vector<Piece>> pieces(plan.pieces);
  for (std::uint64_t index = 0; index < plan.pieces; ++index) {
    for (int rank = 0; rank < world; ++rank)
      pieces[index].push_back(piece_of({call, rank, world, {}, {}}, plan, index));
  }
  return pieces;
}

void expect_paired(const Exchange Piece::*exchange, const std::vector<Piece>& pieces, int world) {
  for (int a = 0; a < world; ++a) {
    for (int b = 0; b < world; ++b) {
      const Exchange& from = pieces[static_cast<std::size_t>(a)].*exchange;
      const Exchange& to = pieces[static_cast<std::size_t>(b)].*exchange;
      ASSERT_EQ(from.sends.empty(), to.recvs.empty());
      if (from.sends.empty()) continue;
      ASSERT_EQ(from.sends[static_cast<std::size_t>(b)].nbytes, to.recvs[static_cast<std::size_t>(a)].nbytes)
          << a << " to " << b;
    }
  }
}

TEST(WirePlan, WhatIsSentIsExpected) {
  for (const OpKind kind : kKinds) {
    for (int world = 1; world <= 8; ++world) {
      for (const std::size_t count : {1, 7, 513, 5000, 700001}) {
        for (const double latency_us : {1.0, 1e6}) {
          for (int root = 0; root < world; root += 3) {
            SCOPED_TRACE(::testing::Message()
                         << name_of(kind) << " world " << world << " count " << count << " root " << root);
            const Collective call = call_of(kind, count, root);
            const Plan plan = plan_for(call, world, {latency_us});
            for (const auto& ranks : all_pieces(call, plan, world)) {
              expect_paired(&Piece::first, ranks, world);
              expect_paired(&Piece::second, ranks, world);
            }
          }
        }
      }
    }
  }
}

TEST(WirePlan, ScratchHoldsWhatComesAndTheResultsCoverTheBuffer) {
  for (const OpKind kind : {OpKind::kAllReduce, OpKind::kReduce, OpKind::kReduceScatter}) {
    for (int world = 2; world <= 8; ++world) {
      for (const std::size_t count : {1, 33, 5000, 700001}) {
        for (const double latency_us : {1.0, 1e6}) {
          const Collective call = call_of(kind, count, world - 1);
          const Plan plan = plan_for(call, world, {latency_us});
          std::vector<int> formed(count, 0);  // Ranks that form each element of the output.
          for (const auto& ranks : all_pieces(call, plan, world)) {
            for (int rank = 0; rank < world; ++rank) {
              const Piece& piece = ranks[static_cast<std::size_t>(rank)];
              for (const Part& part : piece.first.recvs) {
                ASSERT_TRUE(part.nbytes == 0 || part.where == Where::kScratch);
                ASSERT_LE(part.offset + part.nbytes, plan.scratch_nbytes);
              }
              if (piece.result.where != Where::kOutput || piece.result.nbytes == 0) {
                ASSERT_LE(piece.result.offset + piece.result.nbytes, std::max(plan.scratch_nbytes, std::size_t{0}));
                continue;
              }
              ASSERT_EQ(piece.own.nbytes, piece.result.nbytes);
              for (std::size_t i = 0; i < piece.result.nbytes / 4; ++i) ++formed[piece.result.offset / 4 + i];
            }
          }
          const bool two_step = plan.algorithm == Algorithm::kTwoStep;
          if (kind == OpKind::kAllReduce) {
            EXPECT_EQ(std::ranges::count(formed, two_step ? 1 : world), static_cast<long>(count));
          } else if (kind == OpKind::kReduceScatter) {
            EXPECT_EQ(std::ranges::count(formed, world), static_cast<long>(count));
          }
        }
      }
    }
  }
}

TEST(WirePlan, BytesOfTheBusiestRank) {
  constexpr std::size_t kCount = 1 << 20;
  constexpr std::size_t kBytes = kCount * 4;
  const auto busiest = [&](OpKind kind, int world, double latency_us) {
    const Collective call = call_of(kind, kCount, 1);
    const Plan plan = plan_for(call, world, {latency_us});
    std::vector<std::size_t> nbytes(static_cast<std::size_t>(world));
    for (const auto& ranks : all_pieces(call, plan, world)) {
      for (int rank = 0; rank < world; ++rank) {
        const Piece& piece = ranks[static_cast<std::size_t>(rank)];
        nbytes[static_cast<std::size_t>(rank)] += sent(piece.first, rank) + sent(piece.second, rank);
      }
    }
    return *std::ranges::max_element(nbytes);
  };
  constexpr double kNear = 1;   // Two steps pay.
  constexpr double kFar = 1e7;  // They don't.
  EXPECT_EQ(busiest(OpKind::kAllReduce, 2, kNear), kBytes);
  EXPECT_EQ(busiest(OpKind::kAllReduce, 4, kNear), 2 * 3 * kBytes / 4);
  EXPECT_EQ(busiest(OpKind::kAllReduce, 8, kNear), 2 * 7 * kBytes / 8);
  EXPECT_EQ(busiest(OpKind::kAllReduce, 4, kFar), 3 * kBytes);
  EXPECT_EQ(busiest(OpKind::kBroadcast, 5, kNear), kBytes);
  EXPECT_EQ(busiest(OpKind::kBroadcast, 5, kFar), 4 * kBytes);
  EXPECT_EQ(busiest(OpKind::kReduce, 4, kNear), kBytes);
  EXPECT_EQ(busiest(OpKind::kReduceScatter, 4, kNear), 3 * kBytes);  // Of an input of 4 parts.
  EXPECT_EQ(busiest(OpKind::kAllGather, 4, kNear), 3 * kBytes);
  EXPECT_EQ(busiest(OpKind::kAllToAll, 4, kNear), 3 * kBytes);
}

TEST(WirePlan, SmallOnesRideInTheHeader) {
  for (const OpKind kind : kKinds) {
    EXPECT_TRUE(plan_for(call_of(kind, 1), 4, {50}).rides_in_header) << name_of(kind);
    EXPECT_TRUE(plan_for(call_of(kind, kInlineBytes / 4), 2, {50}).rides_in_header) << name_of(kind);
    EXPECT_FALSE(plan_for(call_of(kind, kInlineBytes / 4 + 1), 2, {50}).rides_in_header) << name_of(kind);
  }
  EXPECT_EQ(plan_for(call_of(OpKind::kBarrier, 0), 4, {50}).pieces, 0u);
  EXPECT_EQ(plan_for(call_of(OpKind::kAllReduce, 0), 4, {50}).pieces, 0u);
}

TEST(WirePlan, FartherHostsTakeFewerSteps) {
  const Collective call = call_of(OpKind::kAllReduce, 16384);  // 64 KiB
  EXPECT_EQ(plan_for(call, 4, {50}).algorithm, Algorithm::kTwoStep);
  EXPECT_EQ(plan_for(call, 4, {5000}).algorithm, Algorithm::kDirect);
  // Two ranks send the same bytes either way.
  EXPECT_EQ(plan_for(call_of(OpKind::kAllReduce, 1 << 24), 2, {1}).algorithm, Algorithm::kDirect);
}

TEST(WirePlan, UnequalPartsAreCutByTheLargest) {
  const std::vector<std::size_t> counts = {0, 700001, 5};
  Collective call = call_of(OpKind::kReduceScatter, 700006);
  call.counts = counts;
  const Plan plan = plan_for(call, 3, {50});
  const std::vector<std::size_t> offsets = offsets_of(counts);
  std::vector<std::size_t> formed(3);
  for (std::uint64_t index = 0; index < plan.pieces; ++index) {
    std::vector<Piece> ranks;
    for (int rank = 0; rank < 3; ++rank) {
      ranks.push_back(piece_of({call, rank, 3, offsets, {}}, plan, index));
      formed[static_cast<std::size_t>(rank)] += ranks.back().result.nbytes / 4;
    }
    expect_paired(&Piece::first, ranks, 3);
  }
  EXPECT_EQ(formed, counts);
}

}  // namespace
}  // namespace lockstep::wire
