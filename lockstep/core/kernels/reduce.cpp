// The vector reductions and their dispatcher. Highway compiles the part above HWY_ONCE once per instruction set.
//
// One pass, whatever the number of sources: a group of vectors is accumulated in registers over all sources and then
// stored to every destination, so memory is read once and written once. All loads of an element come before its
// stores, which is what makes a destination that is also a source safe. Stores are ordinary ones: what is written is
// read next by the peer or by the optimizer, and non-temporal stores would evict it.
#include <cstring>
#include <span>
#include <type_traits>

#include "lockstep/core/kernels/half.h"
#include "lockstep/core/kernels/job.h"
#include "lockstep/core/kernels/kernels.h"

// Every x86 worth a vector loop has SSE4: one instruction set less saves a quarter of the build. Structures cannot
// hold the vectors of SVE, whose size is unknown to the compiler; NEON serves there.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lockstep/core/kernels/reduce.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "lockstep/core/kernels/lanes.inc"

HWY_BEFORE_NAMESPACE();
namespace lockstep::kernels {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128

void reduce_job(const Job& job) { scalar::reduce(job.sources, job.destinations, job.count, job.how); }

#else

/// For a lambda.
#define LS_INLINE HWY_ATTR __attribute__((always_inline))

struct Sum {
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE V combine(D /*d*/, V a, V b) {
    return hn::Add(a, b);
  }
};

struct Product {
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE V combine(D d, V a, V b) {
    if constexpr (sizeof(hn::TFromD<D>) == 1) {
      // There is no multiplication of bytes: even and odd bytes apart, in 16 bits.
      const hn::RepartitionToWide<D> wide;
      const auto low = hn::Set(wide, 0x00ffU);
      const auto a16 = hn::BitCast(wide, a);
      const auto b16 = hn::BitCast(wide, b);
      const auto even = hn::And(hn::Mul(hn::And(a16, low), hn::And(b16, low)), low);
      const auto odd = hn::ShiftLeft<8>(hn::Mul(hn::ShiftRight<8>(a16), hn::ShiftRight<8>(b16)));
      return hn::BitCast(d, hn::Or(even, odd));
    } else {
      return hn::Mul(a, b);
    }
  }
};

/// Of equal values (-0.0 and 0.0) the first stays; a NaN, once taken, stays.
struct Min {
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE V combine(D /*d*/, V a, V b) {
    if constexpr (hwy::IsFloat<hn::TFromD<D>>()) {
      return hn::IfThenElse(hn::Or(hn::Lt(b, a), hn::IsNaN(b)), b, a);
    } else {
      return hn::Min(a, b);
    }
  }
};

struct Max {
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE V combine(D /*d*/, V a, V b) {
    if constexpr (hwy::IsFloat<hn::TFromD<D>>()) {
      return hn::IfThenElse(hn::Or(hn::Gt(b, a), hn::IsNaN(b)), b, a);
    } else {
      return hn::Max(a, b);
    }
  }
};

struct BitAnd {
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE V combine(D /*d*/, V a, V b) {
    return hn::And(a, b);
  }
};

struct BitOr {
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE V combine(D /*d*/, V a, V b) {
    return hn::Or(a, b);
  }
};

struct BitXor {
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE V combine(D /*d*/, V a, V b) {
    return hn::Xor(a, b);
  }
};

/// The addresses of a job: copied, so that they stay in registers, where their number is known; looked up where not.
template <class Pointer, std::size_t kSize>
class Pointers {
 public:
  template <class Void>
  explicit HWY_INLINE Pointers(std::span<Void* const> from) {
    for (std::size_t i = 0; i < kSize; ++i) at_[i] = static_cast<Pointer>(from[i]);
  }
  HWY_INLINE Pointer operator[](std::size_t i) const { return at_[i]; }
  static constexpr HWY_INLINE std::size_t size() { return kSize; }

 private:
  Pointer at_[kSize];
};

template <class Pointer>
class Pointers<Pointer, 0> {
 public:
  using Void = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const void, void>;

  explicit HWY_INLINE Pointers(std::span<Void* const> from) : from_(from.data()), size_(from.size()) {}
  HWY_INLINE Pointer operator[](std::size_t i) const { return static_cast<Pointer>(from_[i]); }
  HWY_INLINE std::size_t size() const { return size_; }

 private:
  Void* const* from_;
  std::size_t size_;
};

/// body(k) for each k in [kFirst, size). Where `size` is known, as kSize, it is written out: compilers leave a loop of
/// three a loop, and then keep the addresses in memory.
template <std::size_t kFirst, std::size_t kSize, class Body>
HWY_INLINE void for_each(std::size_t size, const Body& body) {
  if constexpr (kSize == 0) {
    for (std::size_t k = kFirst; k < size; ++k) body(k);
  } else if constexpr (kFirst < kSize) {
    body(kFirst);
    for_each<kFirst + 1, kSize>(size, body);
  }
}

/// Asks for the cache lines of `kBytes` from `at` on.
template <std::size_t kBytes>
HWY_INLINE void prefetch(const char* at) {
  hwy::Prefetch(at);
  if constexpr (kBytes > 64) prefetch<kBytes - 64>(at + 64);
}

/// Peers' slots lie modified in another core's cache, and hardware prefetchers are slow to bring such lines: asking
/// for them this many bytes ahead saves 10 to 35 % from 16 KiB up, and more or less ahead saves less.
constexpr std::size_t kPrefetchBytes = 1536;

/// What is multiplied: nothing, the result by 1/average_over, or each source by its factor.
enum class Scaled { kNothing, kResult, kSources };

/// An element of a source as it enters the sum: times the factor of that source, where sources have factors.
template <class L, Scaled kScaled>
struct Term {
  using V = typename L::V;
  using D = typename L::D;

  HWY_INLINE V operator()(V v, std::size_t source) const {
    if constexpr (kScaled == Scaled::kSources) {
      v = L::multiply(v, hn::Set(D(), static_cast<hn::TFromD<D>>(factors[source])));
    }
    return v;
  }
  const double* factors;
};

/// kSources, kDestinations: their number, or 0 for any.
template <class L, class Op, Scaled kScaled, std::size_t kSources, std::size_t kDestinations>
HWY_NOINLINE void reduce_loop(const Job& job) {
  using Element = typename L::Element;
  using V = typename L::V;
  using T = hn::TFromD<typename L::D>;
  constexpr std::size_t kLanes = L::kLanes;
  constexpr std::size_t kGroup = 4 * kLanes;
  const Pointers<const Element*, kSources> sources(job.sources);
  const Pointers<Element*, kDestinations> destinations(job.destinations);
  const Term<L, kScaled> term{job.how.factors.data()};
  auto factor = hn::Zero(typename L::D());
  if constexpr (kScaled == Scaled::kResult) {
    factor = hn::Set(typename L::D(), T{1} / static_cast<T>(job.how.average_over));
  }
  const auto finish = [factor](V v) LS_INLINE {
    if constexpr (kScaled == Scaled::kResult) v = L::multiply(v, factor);
    return L::pack(v);
  };

  const std::size_t count = job.count;
  std::size_t i = 0;
  for (; i + kGroup <= count; i += kGroup) {
    // Never past the end: the lines there belong to the rank that reduces the next chunk.
    const std::size_t ahead = HWY_MIN(i + kPrefetchBytes / sizeof(Element), count - kGroup);
    prefetch<kGroup * sizeof(Element)>(reinterpret_cast<const char*>(sources[0] + ahead));
    V v0 = term(L::load(sources[0] + i), 0);
    V v1 = term(L::load(sources[0] + i + kLanes), 0);
    V v2 = term(L::load(sources[0] + i + 2 * kLanes), 0);
    V v3 = term(L::load(sources[0] + i + 3 * kLanes), 0);
    for_each<1, kSources>(sources.size(), [&](std::size_t s) LS_INLINE {
      prefetch<kGroup * sizeof(Element)>(reinterpret_cast<const char*>(sources[s] + ahead));
      const Element* const from = sources[s] + i;
      v0 = L::template combine<Op>(v0, term(L::load(from), s));
      v1 = L::template combine<Op>(v1, term(L::load(from + kLanes), s));
      v2 = L::template combine<Op>(v2, term(L::load(from + 2 * kLanes), s));
      v3 = L::template combine<Op>(v3, term(L::load(from + 3 * kLanes), s));
    });
    const auto p0 = finish(v0);
    const auto p1 = finish(v1);
    const auto p2 = finish(v2);
    const auto p3 = finish(v3);
    const auto store = [&](std::size_t t) LS_INLINE {
      Element* const to = destinations[t] + i;
      L::store(p0, to);
      L::store(p1, to + kLanes);
      L::store(p2, to + 2 * kLanes);
      L::store(p3, to + 3 * kLanes);
    };
    store(0);
    for_each<1, kDestinations>(destinations.size(), store);
  }
  for (; i + kLanes <= count; i += kLanes) {
    V v = term(L::load(sources[0] + i), 0);
    for_each<1, kSources>(sources.size(), [&](std::size_t s) LS_INLINE {
      v = L::template combine<Op>(v, term(L::load(sources[s] + i), s));
    });
    const auto packed = finish(v);
    for (std::size_t t = 0; t < destinations.size(); ++t) L::store(packed, destinations[t] + i);
  }
  const std::size_t left = count - i;
  if (left == 0) return;
  V v = term(L::load_partial(sources[0] + i, left), 0);
  for_each<1, kSources>(sources.size(), [&](std::size_t s) LS_INLINE {
    v = L::template combine<Op>(v, term(L::load_partial(sources[s] + i, left), s));
  });
  const auto packed = finish(v);
  for (std::size_t t = 0; t < destinations.size(); ++t) L::store_partial(packed, destinations[t] + i, left);
}

template <class L, class Op>
void reduce_any(const Job& job) {
  reduce_loop<L, Op, Scaled::kNothing, 0, 0>(job);
}

template <class L, Scaled kScaled, std::size_t kSources>
void reduce_sum_of(const Job& job) {
  if (job.destinations.size() == 1) return reduce_loop<L, Sum, kScaled, kSources, 1>(job);
  // Into three and more buffers, f32 and f64 wait for the cache lines of peers: a tighter loop measured 5 % slower.
  if constexpr (kSources == 2 || std::is_same_v<L, BfloatPairs>) {
    if (job.destinations.size() == kSources) return reduce_loop<L, Sum, kScaled, kSources, kSources>(job);
  }
  reduce_loop<L, Sum, kScaled, 0, 0>(job);
}

/// Sums and averages are what training does: between few ranks they have loops of their own. Those of 3 and 4 sources
/// save 3 to 10 % where peers wrote the sources, up to 35 % in cache; one of 8 saves nothing.
template <class L, Scaled kScaled>
void reduce_sum(const Job& job) {
  const std::size_t sources = job.sources.size();
  if (sources == 2) return reduce_sum_of<L, kScaled, 2>(job);
  // f16 spends its time in conversions, which are long where they are emulated.
  if constexpr (!std::is_same_v<L, Half>) {
    if (sources == 3) return reduce_sum_of<L, kScaled, 3>(job);
    if (sources == 4) return reduce_sum_of<L, kScaled, 4>(job);
  }
  reduce_loop<L, Sum, kScaled, 0, 0>(job);
}

template <class L>
void reduce_floating(const Job& job) {
  switch (job.how.op) {
    case ReduceOp::kSum: return reduce_sum<L, Scaled::kNothing>(job);
    case ReduceOp::kAvg: return reduce_sum<L, Scaled::kResult>(job);
    case ReduceOp::kPreMulSum: return reduce_loop<L, Sum, Scaled::kSources, 0, 0>(job);
    case ReduceOp::kProduct: return reduce_any<L, Product>(job);
    case ReduceOp::kMin: return reduce_any<L, Min>(job);
    default: return reduce_any<L, Max>(job);
  }
}

/// Bits do not know their type: every integer dtype shares these.
void reduce_bits(Job job) {
  job.count *= size_of(job.how.dtype);
  switch (job.how.op) {
    case ReduceOp::kBitAnd: return reduce_any<Lanes<std::uint8_t>, BitAnd>(job);
    case ReduceOp::kBitOr: return reduce_any<Lanes<std::uint8_t>, BitOr>(job);
    default: return reduce_any<Lanes<std::uint8_t>, BitXor>(job);
  }
}

/// Sums and products of signed numbers are those of unsigned ones, which wrap around.
template <typename T>
void reduce_integer(const Job& job) {
  using Wrapping = Lanes<std::make_unsigned_t<T>>;
  switch (job.how.op) {
    case ReduceOp::kSum: return reduce_any<Wrapping, Sum>(job);
    case ReduceOp::kProduct: return reduce_any<Wrapping, Product>(job);
    case ReduceOp::kMin: return reduce_any<Lanes<T>, Min>(job);
    case ReduceOp::kMax: return reduce_any<Lanes<T>, Max>(job);
    default: return reduce_bits(job);
  }
}

/// One byte, 0 or 1: every operation is one on bits.
void reduce_bool(const Job& job) {
  Reduction how = job.how;
  switch (how.op) {
    case ReduceOp::kSum:
    case ReduceOp::kMax: how.op = ReduceOp::kBitOr; break;
    case ReduceOp::kProduct:
    case ReduceOp::kMin: how.op = ReduceOp::kBitAnd; break;
    default: break;
  }
  reduce_bits({job.sources, job.destinations, job.count, how});
}

void reduce_job(const Job& job) {
  switch (job.how.dtype) {
    case DType::kFloat32: return reduce_floating<Lanes<float>>(job);
    case DType::kFloat64: return reduce_floating<Lanes<double>>(job);
    case DType::kFloat16: return reduce_floating<Half>(job);
    case DType::kBFloat16: return reduce_floating<BfloatPairs>(job);
    case DType::kInt8: return reduce_integer<std::int8_t>(job);
    case DType::kUInt8: return reduce_integer<std::uint8_t>(job);
    case DType::kInt32: return reduce_integer<std::int32_t>(job);
    case DType::kInt64: return reduce_integer<std::int64_t>(job);
    case DType::kBool: return reduce_bool(job);
  }
}

#endif

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::kernels {
HWY_EXPORT(reduce_job);

void reduce(std::span<const void* const> sources, std::span<void* const> destinations, std::size_t count,
            const Reduction& how) {
  const Job job{sources, destinations, count, how};
  check(job);
  if (count == 0) return;
  HWY_DYNAMIC_DISPATCH(reduce_job)(job);
}

}  // namespace lockstep::kernels
#endif  // HWY_ONCE
