// Every instruction set against the scalar specification, bit for bit, and every byte outside of the destinations
// as it was.
#include <iterator>
#include <string>

#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/core/kernels/kernels.h"
#include "tests/unit/core/kernels/kernel_testing.h"

namespace lockstep::kernels {
namespace {

constexpr std::size_t kCounts[] = {0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 1000, 4099};

struct Case {
  DType dtype;
  ReduceOp op;
  std::size_t count;
  std::size_t sources;
  std::size_t destinations;
  bool in_place;
  std::size_t misalignment;

  std::string text() const {
    return std::string(name_of(dtype)) + " " + std::string(name_of(op)) + " count " + std::to_string(count) + ", " +
           std::to_string(sources) + " sources, " + std::to_string(destinations) + " destinations" +
           (in_place ? ", in place" : "") + ", misaligned by " + std::to_string(misalignment);
  }
};

using Reduce = void (*)(std::span<const void* const>, std::span<void* const>, std::size_t, const Reduction&);

/// They round, vanish, overflow and change signs.
std::vector<double> factors(std::size_t sources) {
  constexpr double kCycle[] = {1.0 / 3.0, -2.0, 1e30, 0.0, 1e-40, 1.0, -0.7};
  std::vector<double> factors;
  for (std::size_t s = 0; s < sources; ++s) factors.push_back(kCycle[s % std::size(kCycle)]);
  return factors;
}

/// The sources, then the destinations that are not sources, after the reduction.
std::vector<Buffer> run(Reduce reduce_with, const Case& c, std::vector<Buffer> buffers) {
  std::vector<const void*> sources;
  std::vector<void*> destinations;
  for (std::size_t s = 0; s < c.sources; ++s) sources.push_back(buffers[s].data());
  // In place, the last source comes first, so that a result is not always written where the sum begins.
  for (std::size_t t = 0; t < c.destinations; ++t) {
    const bool is_source = c.in_place && t < c.sources;
    destinations.push_back(buffers[is_source ? c.sources - 1 - t : c.sources + t].data());
  }
  reduce_with(sources, destinations, c.count, {c.dtype, c.op, 3, factors(c.sources)});
  return buffers;
}

void expect_equal_to_scalar(const Case& c, std::mt19937_64& random) {
  std::vector<Buffer> buffers;
  for (std::size_t s = 0; s < c.sources + c.destinations; ++s) {
    buffers.emplace_back(c.count * size_of(c.dtype), s < c.sources ? c.misalignment : 2 * c.misalignment);
    fill(buffers.back(), c.dtype, random);
  }
  const std::vector<Buffer> expected = run(scalar::reduce, c, buffers);
  for_each_instruction_set([&](const std::string&) {
    const std::vector<Buffer> got = run(reduce, c, buffers);
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_TRUE(got[i] == expected[i]) << c.text() << ": buffer " << i << " differs";
      ASSERT_TRUE(got[i].guards_untouched()) << c.text() << ": buffer " << i << " was left";
    }
  });
}

class Equivalence : public testing::TestWithParam<DType> {};

TEST_P(Equivalence, ReduceEqualsTheScalarSpecification) {
  std::mt19937_64 random(7);
  for (const ReduceOp op : all_ops()) {
    if (!is_supported(op, GetParam())) continue;
    for (const std::size_t count : kCounts) {
      for (const std::size_t sources : {1, 2, 3, 4, 5, 8}) {
        for (const std::size_t destinations : {1, 2, 3, 4}) {
          if (destinations == 4 && sources != 4) continue;
          for (const bool in_place : {false, true}) {
            // The long ones, which take the time, are aligned or misaligned in turn; the longest, in place or not.
            for (const std::size_t misalignment : {0, 1}) {
              if (count >= 1000 && misalignment != (sources + destinations) % 2) continue;
              if (count > 1000 && in_place != (destinations == 2)) continue;
              expect_equal_to_scalar({GetParam(), op, count, sources, destinations, in_place, misalignment}, random);
              if (HasFatalFailure()) return;
            }
          }
        }
      }
    }
  }
}

TEST_P(Equivalence, ManySources) {
  std::mt19937_64 random(8);
  for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kPreMulSum}) {
    if (!is_supported(op, GetParam())) continue;
    for (const std::size_t sources : {9, 100, 256}) {
      expect_equal_to_scalar({GetParam(), op, 77, sources, 1, true, 1}, random);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(Equivalence, ScaleEqualsTheScalarSpecification) {
  const DType dtype = GetParam();
  if (!is_floating(dtype)) return;
  std::mt19937_64 random(9);
  for (const std::size_t count : kCounts) {
    for (const double factor : {1.0 / 3.0, -0.0, 1e30, 1.0}) {
      Buffer data(count * size_of(dtype), 1);
      fill(data, dtype, random);
      Buffer expected = data;
      scalar::scale(expected.data(), count, dtype, factor);
      for_each_instruction_set([&](const std::string&) {
        Buffer got = data;
        scale(got.data(), count, dtype, factor);
        ASSERT_TRUE(got == expected) << name_of(dtype) << " count " << count << " factor " << factor;
        ASSERT_TRUE(got.guards_untouched()) << name_of(dtype) << " count " << count;
      });
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, Equivalence, testing::ValuesIn(all_dtypes()),
                         [](const auto& test) { return std::string(name_of(test.param)); });

struct Conversion {
  DType to;
  DType from;
};

class Convert : public testing::TestWithParam<Conversion> {};

TEST_P(Convert, EqualsTheScalarSpecification) {
  const auto [to, from] = GetParam();
  std::mt19937_64 random(10);
  for (const std::size_t count : kCounts) {
    Buffer source(count * size_of(from), 1);
    fill(source, from, random);
    Buffer expected(count * size_of(to), 3);
    scalar::convert(expected.data(), to, source.data(), from, count);
    for_each_instruction_set([&](const std::string&) {
      Buffer got(count * size_of(to), 3);
      convert(got.data(), to, source.data(), from, count);
      ASSERT_TRUE(got == expected) << name_of(from) << " to " << name_of(to) << " count " << count;
      ASSERT_TRUE(got.guards_untouched()) << name_of(from) << " to " << name_of(to) << " count " << count;
    });
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Pairs, Convert,
                         testing::Values(Conversion{DType::kFloat16, DType::kFloat32},
                                         Conversion{DType::kBFloat16, DType::kFloat32},
                                         Conversion{DType::kFloat32, DType::kFloat16},
                                         Conversion{DType::kFloat32, DType::kBFloat16}),
                         [](const auto& test) {
                           return std::string(name_of(test.param.from)) + "_to_" + std::string(name_of(test.param.to));
                         });

TEST(InstructionSet, TheBestOneIsUsedAndOthersCanBeForced) {
  const std::string best = instruction_set();
  std::vector<std::string> names;
  for_each_instruction_set([&](const std::string& name) { names.push_back(name); });
  ASSERT_FALSE(names.empty());
  EXPECT_EQ(names.front(), best);  // Highway lists the best one first
  EXPECT_EQ(instruction_set(), best);
}

}  // namespace
}  // namespace lockstep::kernels
