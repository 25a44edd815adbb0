// Scaling and conversion: one source, one destination. Highway compiles the part above HWY_ONCE once per instruction
// set.
#include <cstring>
#include <type_traits>

#include "lockstep/core/kernels/half.h"
#include "lockstep/core/kernels/job.h"
#include "lockstep/core/kernels/kernels.h"

// As in reduce.cpp.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lockstep/core/kernels/convert.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "lockstep/core/kernels/lanes.inc"

HWY_BEFORE_NAMESPACE();
namespace lockstep::kernels {
namespace HWY_NAMESPACE {

const char* target_name() { return hwy::TargetName(HWY_TARGET); }

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128

void scale_job(void* data, std::size_t count, DType dtype, double factor) { scalar::scale(data, count, dtype, factor); }

void convert_job(void* destination, DType destination_dtype, const void* source, DType source_dtype,
                 std::size_t count) {
  scalar::convert(destination, destination_dtype, source, source_dtype, count);
}

#else

struct Identity {
  template <class V>
  HWY_INLINE V operator()(V v) const {
    return v;
  }
};

template <class V>
struct MultiplyBy {
  HWY_INLINE V operator()(V v) const { return hn::Mul(v, factor); }
  V factor;
};

/// to[i] = map(from[i]); `to` may be `from`.
template <class To, class From, class Map>
HWY_INLINE void map_loop(void* destination, const void* source, std::size_t count, Map map) {
  auto* const to = static_cast<typename To::Element*>(destination);
  const auto* const from = static_cast<const typename From::Element*>(source);
  constexpr std::size_t kLanes = To::kLanes;
  std::size_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    const auto v0 = map(From::load(from + i));
    const auto v1 = map(From::load(from + i + kLanes));
    const auto v2 = map(From::load(from + i + 2 * kLanes));
    const auto v3 = map(From::load(from + i + 3 * kLanes));
    To::store(To::pack(v0), to + i);
    To::store(To::pack(v1), to + i + kLanes);
    To::store(To::pack(v2), to + i + 2 * kLanes);
    To::store(To::pack(v3), to + i + 3 * kLanes);
  }
  for (; i + kLanes <= count; i += kLanes) To::store(To::pack(map(From::load(from + i))), to + i);
  const std::size_t left = count - i;
  if (left != 0) To::store_partial(To::pack(map(From::load_partial(from + i, left))), to + i, left);
}

template <class L>
void scale_loop(void* data, std::size_t count, double factor) {
  const typename L::D d;
  const auto by = hn::Set(d, static_cast<hn::TFromD<typename L::D>>(factor));
  map_loop<L, L>(data, data, count, MultiplyBy<typename L::V>{by});
}

template <class To, class From>
void convert_loop(void* destination, const void* source, std::size_t count) {
  map_loop<To, From>(destination, source, count, Identity());
}

void scale_job(void* data, std::size_t count, DType dtype, double factor) {
  switch (dtype) {
    case DType::kFloat64: return scale_loop<Lanes<double>>(data, count, factor);
    case DType::kFloat16: return scale_loop<Half>(data, count, factor);
    case DType::kBFloat16: return scale_loop<Bfloat>(data, count, factor);
    default: return scale_loop<Lanes<float>>(data, count, factor);
  }
}

void convert_job(void* destination, DType destination_dtype, const void* source, DType source_dtype,
                 std::size_t count) {
  using Float = Lanes<float>;
  if (source_dtype == DType::kFloat16) return convert_loop<Float, Half>(destination, source, count);
  if (source_dtype == DType::kBFloat16) return convert_loop<Float, Bfloat>(destination, source, count);
  if (destination_dtype == DType::kFloat16) return convert_loop<Half, Float>(destination, source, count);
  convert_loop<Bfloat, Float>(destination, source, count);
}

#endif

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::kernels {
HWY_EXPORT(target_name);
HWY_EXPORT(scale_job);
HWY_EXPORT(convert_job);

const char* instruction_set() { return HWY_DYNAMIC_DISPATCH(target_name)(); }

void scale(void* data, std::size_t count, DType dtype, double factor) {
  check_scale(dtype);
  HWY_DYNAMIC_DISPATCH(scale_job)(data, count, dtype, factor);
}

void convert(void* destination, DType destination_dtype, const void* source, DType source_dtype, std::size_t count) {
  check_convert(destination_dtype, source_dtype);
  HWY_DYNAMIC_DISPATCH(convert_job)(destination, destination_dtype, source, source_dtype, count);
}

// The C library's copy measured no slower than loops of ours, prefetching ones too, also from another core's cache.
void copy(void* destination, const void* source, std::size_t nbytes) {
  if (nbytes != 0) std::memcpy(destination, source, nbytes);
}

}  // namespace lockstep::kernels
#endif  // HWY_ONCE
