#pragma once
// Internal: never included from a public header.
//
// What libtorch's versions name differently, under one name.

#include <ATen/autocast_mode.h>
#include <c10/core/DeviceType.h>
#include <c10/core/ScalarType.h>
#include <torch/version.h>

#include "lockstep/core/base/check.h"

/// LS_TORCH_SINCE(2, 4): libtorch is 2.4 or later.
#define LS_TORCH_SINCE(major, minor) \
  (TORCH_VERSION_MAJOR > (major) || (TORCH_VERSION_MAJOR == (major) && TORCH_VERSION_MINOR >= (minor)))

namespace lockstep::group {

/// Autocast's state of this thread for one device type; the cache's flag is one for all devices.
struct AutocastState {
  bool enabled = false;
  at::ScalarType dtype = at::kBFloat16;
  bool cache = true;
};

inline void require_autocast_device(c10::DeviceType device) {
  LS_REQUIRE(device == c10::DeviceType::CPU || device == c10::DeviceType::CUDA, "autocast: device is ",
             c10::DeviceTypeName(device, true), "; expected cpu or cuda");
}

inline AutocastState get_autocast(c10::DeviceType device) {
  namespace autocast = at::autocast;
  const bool cache = autocast::is_autocast_cache_enabled();
#if LS_TORCH_SINCE(2, 4)
  return {autocast::is_autocast_enabled(device), autocast::get_autocast_dtype(device), cache};
#else
  if (device == c10::DeviceType::CPU) return {autocast::is_cpu_enabled(), autocast::get_autocast_cpu_dtype(), cache};
  return {autocast::is_enabled(), autocast::get_autocast_gpu_dtype(), cache};
#endif
}

inline void set_autocast(c10::DeviceType device, const AutocastState& state) {
  namespace autocast = at::autocast;
  autocast::set_autocast_cache_enabled(state.cache);
#if LS_TORCH_SINCE(2, 4)
  autocast::set_autocast_enabled(device, state.enabled);
  autocast::set_autocast_dtype(device, state.dtype);
#else
  if (device == c10::DeviceType::CPU) {
    autocast::set_cpu_enabled(state.enabled);
    autocast::set_autocast_cpu_dtype(state.dtype);
  } else {
    autocast::set_enabled(state.enabled);
    autocast::set_autocast_gpu_dtype(state.dtype);
  }
#endif
}

}  // namespace lockstep::group
