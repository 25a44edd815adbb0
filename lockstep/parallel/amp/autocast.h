#pragma once

#include <memory>

#include <c10/core/DeviceType.h>
#include <c10/core/ScalarType.h>

namespace lockstep {

struct AutocastOptions {
  c10::DeviceType device = c10::DeviceType::CPU;      ///< CPU or CUDA: whose operations are cast
  c10::ScalarType dtype = c10::ScalarType::BFloat16;  ///< BFloat16 or Half; on the CPU BFloat16 before libtorch 2.3
  bool enabled = true;                                ///< false: no casting inside, for a part of a region
  bool cache = true;                                  ///< casts of weights are kept until the outermost guard ends
};

/// While it lives, this thread's operations run in the dtype that suits each: matrix products and convolutions in
/// `dtype`, those that need the range (losses, norms, exponentials) in float32; libtorch keeps the lists. Parameters
/// and gradients stay float32.
///
///     at::Tensor loss;
///     {
///       lockstep::Autocast autocast;                                // CPU, bfloat16
///       loss = torch::cross_entropy_loss(ddp->forward(x), target);
///     }
///     loss.backward();                                              // outside: each operation in its forward's dtype
///
/// Nests; ends in the reverse order of construction and on the same thread, and puts back what was. A weight that is
/// changed (optimizer's step) inside of a guard with a cache is still seen as it was: step outside.
/// Throws UsageError for another device or a dtype that the device does not take. Source: torch.autocast.
class Autocast {
 public:
  explicit Autocast(const AutocastOptions& options = {});
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  struct Before;
  std::unique_ptr<Before> before_;
};

}  // namespace lockstep
