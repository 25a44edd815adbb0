#pragma once
// Internal: never included from a public header.

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "lockstep/parallel/ddp/replicate.h"

namespace torch::autograd {
struct Node;
}

namespace lockstep::ddp {

/// A tensor in `memory`, from element `offset` on, with the shape of `parameter`, that autograd does not know as a
/// view: optimizers detach gradients in place, which a view refuses.
at::Tensor make_slot(const at::Tensor& memory, std::int64_t offset, const at::Tensor& parameter);

/// The gradient of one parameter, and the slot of a bucket that is its place.
struct Gradient {
  NamedTensor parameter;
  std::shared_ptr<torch::autograd::Node> accumulator;  // The parameter itself holds it only weakly.
  at::Tensor slot;
  std::size_t bucket = 0;

  /// Makes `to` the slot, with the value of the gradient. `attach`: a parameter without a gradient gets the slot,
  /// zeroed, as one; otherwise it stays without.
  void move_to(at::Tensor to, bool attach);
  /// Makes `.grad` the slot again, with its value, where something has put another tensor there, or none. True where a
  /// gradient that lay elsewhere was copied. UsageError for one that is not dense.
  bool adopt();

  // ---- of one backward ----
  bool ready = false;  // In its bucket: final, as far as this rank is concerned.
  int arrivals = 0;    // How often it was accumulated.
  bool arrived_since_average = false;
  // Of a gradient that this rank does not use: what it is worth if no other rank uses it either.
  at::Tensor kept;
  bool unused = false;
  /// Takes part in the average with what it holds, or zero.
  void set_unused();
  /// After the average: back to what it was before, unless `used` by another rank.
  void settle_unused(bool used);
};

/// Hooks behind the accumulation of gradients, removed with this object; they call `on_gradient(index, defined)`.
/// Not defined: backward came to the parameter without a gradient, and nothing was accumulated.
class AccumulationHooks {
 public:
  AccumulationHooks() = default;
  AccumulationHooks(const std::vector<Gradient>& gradients, const std::function<void(std::size_t, bool)>& on_gradient);
  ~AccumulationHooks();
  AccumulationHooks(AccumulationHooks&&) noexcept = default;
  AccumulationHooks& operator=(AccumulationHooks&&) noexcept = default;

 private:
  struct Hook {
    std::shared_ptr<torch::autograd::Node> accumulator;
    std::uintptr_t key;
  };
  std::vector<Hook> hooks_;
};

}  // namespace lockstep::ddp
