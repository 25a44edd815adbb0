#include "lockstep/parallel/sentinel/sample_sketch.h"

#include <algorithm>
#include <numeric>
#include <random>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lockstep/parallel/sentinel/checksum.h"

namespace lockstep::sentinel {
namespace {

using Rows = std::vector<std::uint64_t>;

Rows rows_of(const std::vector<std::uint64_t>& samples) {
  Rows rows;
  for (const std::uint64_t sample : samples) rows.push_back(combine(1, sample));
  return rows;
}

Rows range(std::uint64_t begin, std::uint64_t end) {
  std::vector<std::uint64_t> samples(end - begin);
  std::iota(samples.begin(), samples.end(), begin);
  return rows_of(samples);
}

void feed(SampleSketch& sketch, const Rows& rows, std::size_t batch) {
  for (std::size_t at = 0; at < rows.size(); at += batch) {
    sketch.add_batch(std::span(rows).subspan(at, std::min(batch, rows.size() - at)));
  }
}

SketchRecord sketch_of(const Rows& rows, std::size_t batch = 10) {
  SampleSketch sketch;
  feed(sketch, rows, batch);
  return sketch.record();
}

TEST(SampleSketch, KeepsTheSmallestHashes) {
  Rows rows = range(0, 5000);
  const SketchRecord record = sketch_of(rows);
  std::ranges::sort(rows);
  ASSERT_EQ(record.count, kSketchSize);
  EXPECT_TRUE(std::equal(record.hashes.begin(), record.hashes.end(), rows.begin()));
  EXPECT_EQ(sketch_of(range(0, 17)).count, 17U);
}

TEST(SampleSketch, TheEpochEndsAtTheSecondRowThatComesAgain) {
  SampleSketch sketch;
  feed(sketch, range(0, 100), 10);
  sketch.add_batch(rows_of({3, 200, 3, 3}));
  EXPECT_FALSE(sketch.frozen()) << "one row may be twice in the data";
  sketch.add_batch(rows_of({201, 4, 202}));
  EXPECT_TRUE(sketch.frozen());
  EXPECT_EQ(sketch.record().count, 102U) << "200 and 201 came before it, 202 after it";
  sketch.add_batch(rows_of({300}));
  EXPECT_EQ(sketch.record().count, 102U);
}

TEST(SampleSketch, ConstantDataIsNoEpoch) {
  SampleSketch sketch;
  feed(sketch, rows_of({9, 9, 9}), 1);
  EXPECT_TRUE(sketch.frozen());
  EXPECT_EQ(sketch.record().constant, 1);
  SampleSketch other;
  feed(other, rows_of({9, 8, 9}), 1);
  EXPECT_EQ(other.record().constant, 0);
}

TEST(SampleSketch, OverlapIsTheCommonPart) {
  const Overlap small = overlap_of(sketch_of(range(0, 60)), sketch_of(range(40, 120)));
  EXPECT_EQ(small.shared, 20U);
  EXPECT_EQ(small.of, 60U);
  const Overlap none = overlap_of(sketch_of(range(0, 3000)), sketch_of(range(3000, 9000)));
  EXPECT_EQ(none.shared, 0U);
  // The sketch of the longer list covers a smaller range of values: a third of the rows of the other are in it.
  const Overlap longer = overlap_of(sketch_of(range(0, 3000)), sketch_of(range(0, 9000)));
  EXPECT_NEAR(static_cast<double>(longer.of), 85, 40);
  EXPECT_EQ(longer.shared, longer.of);
  const Overlap half = overlap_of(sketch_of(range(0, 4000)), sketch_of(range(2000, 6000)));
  EXPECT_NEAR(static_cast<double>(half.shared) / static_cast<double>(half.of), 0.5, 0.15);
}

TEST(SampleSketch, TheSameBatchesAreKnownAtTheSecondOne) {
  EXPECT_FALSE(same_batches(sketch_of(range(0, 4), 4), sketch_of(range(0, 4), 4))) << "one batch may be a benchmark's";
  EXPECT_TRUE(same_batches(sketch_of(range(0, 8), 4), sketch_of(range(0, 8), 4)));
  EXPECT_FALSE(same_batches(sketch_of(range(0, 8), 4), sketch_of(range(1, 9), 4)));
  EXPECT_FALSE(same_batches(sketch_of(range(0, 2), 1), sketch_of(range(0, 2), 1))) << "one row is too little";
  const Rows constant = rows_of({1, 2, 3, 1, 2, 3});
  EXPECT_FALSE(same_batches(sketch_of(constant, 3), sketch_of(constant, 3)));
}

/// `ranks` loaders that each see all of `samples` in an order of their own, or, sharded, a part of a common order.
std::vector<Rows> epoch_of(std::uint64_t samples, std::size_t ranks, bool sharded, std::uint64_t seed) {
  std::vector<Rows> result(ranks);
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    std::vector<std::uint64_t> order(samples);
    std::iota(order.begin(), order.end(), std::uint64_t{0});
    std::mt19937_64 random(sharded ? seed : seed * 1000 + rank);
    std::shuffle(order.begin(), order.end(), random);
    const Rows rows = rows_of(order);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (!sharded || i % ranks == rank) result[rank].push_back(rows[i]);
    }
  }
  return result;
}

TEST(SampleSketch, AnUnshardedEpochIsFoundBeforeItsEnd) {
  for (const std::uint64_t samples : {100U, 1000U, 20000U}) {
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
      std::vector<Rows> ranks = epoch_of(samples, 2, false, seed);
      for (Rows& rows : ranks) rows.resize(samples * 3 / 4);
      EXPECT_TRUE(same_samples(sketch_of(ranks[0]), sketch_of(ranks[1]))) << samples << " samples, seed " << seed;
    }
  }
}

TEST(SampleSketch, ShardedEpochsNeverShareWhateverTheirSize) {
  for (const std::uint64_t samples : {10U, 64U, 200U, 1000U, 5000U}) {
    for (const std::size_t size : {2U, 3U, 8U, 20U}) {
      std::vector<SampleSketch> sketches(size);
      for (std::uint64_t epoch = 1; epoch <= 4; ++epoch) {
        const std::vector<Rows> ranks = epoch_of(samples, size, true, epoch);
        std::vector<SketchRecord> records;
        for (std::size_t rank = 0; rank < size; ++rank) {
          feed(sketches[rank], ranks[rank], 7);
          records.push_back(sketches[rank].record());
        }
        EXPECT_TRUE(find_same_samples(records, epoch, true).empty())
            << samples << " samples, " << size << " ranks, epoch " << epoch;
      }
    }
  }
}

TEST(SampleSketch, RowsDrawnWithReplacementNeverShare) {
  for (const std::uint64_t values : {2U, 20U, 100U, 300U, 1000U, 100000U}) {
    std::mt19937_64 random(values);
    std::vector<SketchRecord> records;
    for (int rank = 0; rank < 40; ++rank) {
      std::vector<std::uint64_t> samples(4000);
      for (std::uint64_t& sample : samples) sample = random() % values;
      records.push_back(sketch_of(rows_of(samples), 8));
    }
    EXPECT_TRUE(find_same_samples(records, 0, true).empty()) << values << " values";
  }
}

TEST(SampleSketch, EveryPairHasItsTurn) {
  // Ranks 0 and 20 of 41 are at the largest distance.
  std::vector<SketchRecord> records;
  for (std::uint64_t rank = 0; rank < 41; ++rank) records.push_back(sketch_of(range(rank * 100, rank * 100 + 100)));
  records[20] = sketch_of(range(0, 100), 9);
  int found = 0;
  for (std::size_t exchange = 0; exchange < 3; ++exchange) {
    for (const SamplePair& pair : find_same_samples(records, exchange, false)) {
      EXPECT_EQ(pair.a, 0);
      EXPECT_EQ(pair.b, 20);
      ++found;
    }
  }
  EXPECT_GE(found, 1);
  EXPECT_EQ(find_same_samples(records, 0, true).size(), 1U);
  EXPECT_TRUE(find_same_samples(std::span(records).first(1), 0, true).empty());
  const std::vector<SketchRecord> equal(4, sketch_of(range(0, 100)));
  EXPECT_EQ(find_same_samples(equal, 0, false).size(), 6U) << "each pair once";
}

TEST(HashRows, AreThoseOfTheBytesOfEachRow) {
  const at::Tensor batch = at::arange(12, at::kFloat).reshape({3, 4});
  const Rows rows = hash_rows(batch);
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(hash_rows(batch.slice(0, 1)), Rows(rows.begin() + 1, rows.end()));
  EXPECT_EQ(hash_rows(batch.slice(0, 0, 3, 2)), (Rows{rows[0], rows[2]}));
  EXPECT_EQ(hash_rows(batch.t().contiguous().t()), rows) << "strides do not count";
  EXPECT_EQ(hash_rows(at::arange(3, at::kLong)).size(), 3U);
  EXPECT_TRUE(hash_rows(at::Tensor()).empty());
  EXPECT_TRUE(hash_rows(at::ones({})).empty());
  EXPECT_TRUE(hash_rows(at::ones({0, 3})).empty());
  EXPECT_TRUE(hash_rows(at::eye(3).to_sparse()).empty());
  EXPECT_EQ(hash_rows(at::ones({1, 3}).expand({5, 3})), Rows(5, hash_rows(at::ones({1, 3}))[0]));
}

TEST(HashRows, LongRowsAreReadInPiecesFromTheirStartToTheirEnd) {
  at::Tensor batch = at::zeros({2, 100'000}, at::kByte);
  for (const std::int64_t place : {0, 511, 99'999}) {
    batch.zero_();
    EXPECT_EQ(hash_rows(batch)[0], hash_rows(batch)[1]);
    batch[1][place] = 1;
    EXPECT_NE(hash_rows(batch)[0], hash_rows(batch)[1]) << place;
  }
}

}  // namespace
}  // namespace lockstep::sentinel
