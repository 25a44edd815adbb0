#pragma once
// Internal: never included from a public header.

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "lockstep/parallel/ddp/bucket_plan.h"
#include "lockstep/parallel/ddp/distributed_data_parallel.h"
#include "lockstep/parallel/ddp/replicate.h"

namespace torch::autograd {
struct Node;
}

namespace lockstep::ddp {

/// Averages gradients over the ranks while backward runs: decides when each bucket is launched.
///
/// `.grad` of every parameter is a slot of a bucket in backend memory, where autograd adds in place. A hook behind each
/// parameter's accumulation marks its slot ready; the next bucket in index order is launched when all of its slots
/// are. A callback at the end of backward waits for the buckets. Both run in the thread that called backward.
///
/// Lifetime: hooks hold a weak reference and are removed by the destructor; the module may live on, or die first.
/// Failure: a backward that goes wrong (see on_gradient and finish_backward) aborts the group, so that no peer waits.
class Reducer : public std::enable_shared_from_this<Reducer> {
 public:
  /// Collective (allocates the buckets). `parameters` are leaves that require a gradient.
  static std::shared_ptr<Reducer> create(std::shared_ptr<ProcessGroup> group, std::vector<NamedTensor> parameters,
                                         const DdpOptions& options);
  ~Reducer();
  Reducer(const Reducer&) = delete;
  Reducer& operator=(const Reducer&) = delete;

  /// Says whether the backward passes that follow average. Collective in the one forward, after the first backward
  /// that averaged, in which buckets are laid out again in the order in which rank 0's gradients arrived.
  /// Throws UsageError when the last backward did not come to its end.
  void before_forward(bool synchronise);

  const DdpStatistics& statistics() const noexcept { return statistics_; }

 private:
  struct Gradient {
    NamedTensor parameter;
    std::shared_ptr<torch::autograd::Node> accumulator;  // The parameter itself holds it only weakly.
    std::uintptr_t hook = 0;                             // Key of our hook in the accumulator.
    at::Tensor slot;
    std::size_t bucket = 0;
    bool ready = false;
  };
  struct Bucket {
    BucketSpec spec;
    at::Tensor memory;
    std::string label;
    std::size_t pending = 0;  // Slots that are not ready yet.
    Work work;
  };

  Reducer(std::shared_ptr<ProcessGroup> group, std::vector<NamedTensor> parameters, const DdpOptions& options);

  /// Runs behind the accumulation of gradient `index`.
  void on_gradient(std::size_t index);
  /// Makes `.grad` the slot again, with its value, where something has put another tensor there.
  void adopt(Gradient& gradient);
  void begin_backward();
  void launch_complete_buckets();
  /// Runs at the end of the backward that begin_backward saw.
  void finish_backward();
  void wait_for_buckets();
  /// Ends the group for everyone, then throws UsageError here.
  [[noreturn]] void fail(const std::string& text);
  std::string missing_gradients() const;

  void add_hooks();
  /// Collective: allocates and points every `.grad` to its slot, keeping its value.
  void lay_out(const std::vector<BucketSpec>& plan);
  void rebuild();
  std::vector<BucketSpec> plan(std::span<const std::size_t> order) const;

  std::shared_ptr<ProcessGroup> group_;
  DdpOptions options_;
  std::vector<Gradient> gradients_;
  std::vector<Bucket> buckets_;
  std::vector<std::size_t> arrivals_;  // Indices in the order of the last backward that averaged.
  std::size_t next_bucket_ = 0;        // To launch.
  bool synchronise_ = true;
  bool in_backward_ = false;
  std::exception_ptr failure_;  // Communication failed in a hook; thrown at the end of backward.
  DdpStatistics statistics_;
};

}  // namespace lockstep::ddp
