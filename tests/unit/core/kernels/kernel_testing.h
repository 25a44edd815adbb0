#pragma once
// What the tests of the kernels share: every instruction set of this processor in turn, and buffers that notice a
// write outside of them.

#include <cstddef>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include "lockstep/core/base/dtype.h"
#include "lockstep/core/kernels/kernels.h"

namespace lockstep::kernels {

/// Calls `body(name)` once per instruction set that was compiled and that this processor has.
template <class Body>
void for_each_instruction_set(Body body) {
  struct Restore {
    ~Restore() { hwy::SetSupportedTargetsForTest(0); }
  } restore;
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    const std::string name = instruction_set();
    SCOPED_TRACE(name);
    body(name);
    if (testing::Test::HasFatalFailure()) return;
  }
}

/// `nbytes` bytes, `misalignment` bytes off an aligned address, between guards.
class Buffer {
 public:
  explicit Buffer(std::size_t nbytes, std::size_t misalignment = 0)
      : memory_(nbytes + 2 * kGuard + misalignment, kPattern), offset_(kGuard + misalignment), nbytes_(nbytes) {}

  std::byte* data() { return memory_.data() + offset_; }
  const std::byte* data() const { return memory_.data() + offset_; }
  std::size_t nbytes() const { return nbytes_; }

  bool guards_untouched() const {
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      if ((i < offset_ || i >= offset_ + nbytes_) && memory_[i] != kPattern) return false;
    }
    return true;
  }
  bool operator==(const Buffer& other) const {
    return nbytes_ == other.nbytes_ && (nbytes_ == 0 || std::memcmp(data(), other.data(), nbytes_) == 0);
  }

 private:
  static constexpr std::size_t kGuard = 64;
  static constexpr std::byte kPattern{0xa5};

  std::vector<std::byte> memory_;
  std::size_t offset_;
  std::size_t nbytes_;
};

/// Any bits at all, so that floats are also infinite, NaN and subnormal; one in four is a value that rounds or
/// compares in a way worth testing. Bools are 0 or 1.
inline void fill(Buffer& buffer, DType dtype, std::mt19937_64& random) {
  static const std::vector<std::uint64_t> special32 = {0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000,
                                                       0xff800000, 0x7fc00000, 0xffc01234, 0x7f800001, 0x00000001,
                                                       0x807fffff, 0x7f7fffff, 0x3f808000, 0x477fe000, 0x33000000};
  static const std::vector<std::uint64_t> special64 = {0x0000000000000000, 0x8000000000000000, 0x3ff0000000000000,
                                                       0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000,
                                                       0xfff8000000001234, 0x7ff0000000000001, 0x0000000000000001,
                                                       0x7fefffffffffffff, 0x7fffffffffffffff, 0xffffffffffffffff};
  static const std::vector<std::uint64_t> special16 = {0x0000, 0x8000, 0x3c00, 0x7c00, 0xfc00, 0x7e00, 0xfe12,
                                                       0x7c01, 0x0001, 0x83ff, 0x7bff, 0x0400, 0x3c01, 0x7f80,
                                                       0xff80, 0x7f81, 0x7fc0, 0x7f7f, 0x3f80, 0x3f81, 0x0080};
  static const std::vector<std::uint64_t> special8 = {0x00, 0x01, 0x7f, 0x80, 0xff};
  const std::size_t size = size_of(dtype);
  const auto& special = size == 8 ? special64 : size == 4 ? special32 : size == 2 ? special16 : special8;
  for (std::size_t at = 0; at < buffer.nbytes(); at += size) {
    const std::uint64_t choice = random();
    std::uint64_t bits = choice % 4 == 0 ? special[(choice >> 2) % special.size()] : random();
    if (dtype == DType::kBool) bits &= 1U;
    std::memcpy(buffer.data() + at, &bits, size);
  }
}

inline std::vector<DType> all_dtypes() {
  std::vector<DType> dtypes;
  for (int i = 0; i < kDTypeCount; ++i) dtypes.push_back(static_cast<DType>(i));
  return dtypes;
}

inline std::vector<ReduceOp> all_ops() {
  std::vector<ReduceOp> ops;
  for (int i = 0; i < kReduceOpCount; ++i) ops.push_back(static_cast<ReduceOp>(i));
  return ops;
}

}  // namespace lockstep::kernels
