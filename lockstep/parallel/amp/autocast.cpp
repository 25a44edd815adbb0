#include "lockstep/parallel/amp/autocast.h"

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/group/torch_compat.h"

namespace lockstep {
namespace {

bool takes(c10::DeviceType device, at::ScalarType dtype) {
  if (dtype == at::kBFloat16) return true;
  return dtype == at::kHalf && (device != c10::DeviceType::CPU || LS_TORCH_SINCE(2, 3));
}

}  // namespace

struct Autocast::Before {
  c10::DeviceType device;
  group::AutocastState state;
};

Autocast::Autocast(const AutocastOptions& options) {
  group::require_autocast_device(options.device);
  LS_REQUIRE(takes(options.device, options.dtype), "autocast: dtype is ", options.dtype, "; expected BFloat16",
             takes(options.device, at::kHalf) ? " or Half" : ": this libtorch casts to nothing else on the CPU");
  before_ = std::make_unique<Before>(Before{options.device, group::get_autocast(options.device)});
  group::set_autocast(options.device, {options.enabled, options.dtype, options.cache});
  at::autocast::increment_nesting();
}

Autocast::~Autocast() {
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  group::set_autocast(before_->device, before_->state);
}

}  // namespace lockstep
