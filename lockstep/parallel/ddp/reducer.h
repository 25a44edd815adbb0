#pragma once
// Internal: never included from a public header.

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "lockstep/parallel/ddp/autograd_graph.h"
#include "lockstep/parallel/ddp/bucket_optimizers.h"
#include "lockstep/parallel/ddp/bucket_plan.h"
#include "lockstep/parallel/ddp/comm_hook.h"
#include "lockstep/parallel/ddp/ddp_options.h"
#include "lockstep/parallel/ddp/gradient_slots.h"
#include "lockstep/parallel/ddp/replicate.h"
#include "lockstep/parallel/sentinel/sentinel.h"
#include "lockstep/parallel/trace/trace.h"

namespace lockstep::ddp {

/// How a forward and its backward take part.
struct StepPlan {
  bool synchronise = true;
  int root = 0;          ///< whose order of gradients counts
  int divisor = 0;       ///< of the sum over ranks; 0: the world size
  bool everyone = true;  ///< every rank has an input
  bool watched = true;   ///< by the sentinel
};

/// Averages gradients over the ranks while backward runs: decides when each bucket is launched.
///
/// `.grad` of every parameter is a slot of a bucket in backend memory, where autograd adds in place. A hook behind each
/// parameter's accumulation marks its slot ready; the next bucket in index order is launched when all of its slots
/// are. A callback at the end of backward waits for the buckets. Both run in the thread that called backward.
///
/// Lifetime: hooks hold a weak reference and are removed by the destructor; the module may live on, or die first.
/// Failure: a backward that goes wrong (see on_gradient and finish_backward), or is left midway, ends the group: so no
/// peer waits, and nobody moves bytes of memory that is gone.
class Reducer : public std::enable_shared_from_this<Reducer> {
 public:
  /// Collective (allocates the buckets). `parameters` are leaves that require a gradient. `statistics` are continued.
  static std::shared_ptr<Reducer> create(std::shared_ptr<ProcessGroup> group, std::vector<NamedTensor> parameters,
                                         const DdpOptions& options, DdpStatistics statistics = {});
  ~Reducer();
  Reducer(const Reducer&) = delete;
  Reducer& operator=(const Reducer&) = delete;

  /// Collective: `hook` carries buckets from the next backward on.
  void set_comm_hook(std::shared_ptr<CommHook> hook);
  /// Records buckets, backward and waits; null: nothing.
  void set_trace(Trace* trace) noexcept { trace_ = trace; }

  /// Shows each backward to `sentinel`, which lives as long as this; null: to nobody.
  void set_sentinel(Sentinel* sentinel) noexcept { sentinel_ = sentinel; }

  /// Steps these at the end of each backward that averages, where there are any; they live as long as this.
  void set_optimizers(const BucketOptimizers* optimizers) noexcept { optimizers_ = optimizers; }
  bool in_backward() const noexcept { return in_backward_; }

  /// Says whether the backward passes that follow average, and how. Collective in the one forward, after the first
  /// backward that averaged, in which buckets are laid out again in the order in which gradients arrived; unless
  /// after_forward() knew it before. `inputs` are for the sentinel. Throws UsageError when the last backward did not
  /// come to its end.
  void before_forward(const StepPlan& plan, const std::vector<at::Tensor>& inputs = {});
  /// What forward returned. Collective in the first that synchronises: buckets are laid out in the order that the graph
  /// of the root's outputs predicts. Finds unused parameters where that is asked for.
  void after_forward(const std::vector<at::Tensor>& outputs);
  /// This rank's part of the average of the next backward that averages; parts of all ranks add up to one.
  void set_factor(double factor) { factor_ = factor; }

  /// What the ranks that have inputs do in after_forward() and in a backward, with zeros.
  void shadow_forward();
  void shadow_backward();

  const DdpStatistics& statistics() const noexcept { return statistics_; }

 private:
  struct Bucket {
    BucketSpec spec;
    GradientBucket view;  // What a hook sees.
    std::string label;
    std::size_t pending = 0;  // Slots that are not ready yet.
    Work work;
    Clock::time_point launched, finished;
  };

  Reducer(std::shared_ptr<ProcessGroup> group, std::vector<NamedTensor> parameters, const DdpOptions& options,
          DdpStatistics statistics);

  // ---- one backward ----
  /// Runs behind the accumulation of gradient `index`, which adds nothing unless it is `defined`.
  void on_gradient(std::size_t index, bool defined);
  /// Has finish_backward() run at the end of the backward that runs now.
  void queue_end();
  void begin_backward();
  /// True when this arrival makes the gradient final.
  bool count_arrival(Gradient& gradient);
  void mark_ready(Gradient& gradient);
  void mark_unused(Gradient& gradient);
  /// Runs at the end of the backward that begin_backward saw.
  void finish_backward();
  bool steps_in_backward() const noexcept { return optimizers_ != nullptr && !optimizers_->empty(); }
  /// Has every bucket averaged; `steps`: and used.
  void average(bool steps);
  /// At the end: gradients that did not come are unused, where that is allowed.
  void settle_absent_gradients();
  std::string missing_gradients() const;
  std::string changed_graph() const;
  /// `text`, with this rank and group before it.
  std::string signed_text(const std::string& text) const;
  /// Ends the group for everyone, then throws UsageError here.
  [[noreturn]] void fail(const std::string& text);
  /// Calls the sentinel, if this step has one, and notes how long that takes.
  template <typename Call>
  void ask_sentinel(Call call);

  // ---- buckets on their way ----
  void reset_buckets();
  void launch_complete_buckets();
  Work launch(Bucket& bucket);
  /// The gradients of this bucket are shown to the sentinel.
  bool is_sampled(const Bucket& bucket) const;
  /// Moves bytes without waiting, and notes which buckets have arrived.
  void progress();
  void complete(Bucket& bucket);
  /// `steps`: optimizers step on each bucket that has arrived while later ones are on their way.
  void wait_for_buckets(bool steps);
  void step_optimizers(const Bucket& bucket);
  void record_step();

  // ---- parameters that are not used ----
  bool tolerates_unused() const noexcept { return options_.find_unused_parameters || options_.static_graph; }
  bool learns_graph() const noexcept { return options_.static_graph && !graph_is_known_; }
  /// Starts finding out which gradients any rank has.
  void start_used_map();
  void settle_unused();

  // ---- layout ----
  /// Collective: allocates and points every `.grad` to its slot, keeping its value.
  void lay_out(const std::vector<BucketSpec>& plan);
  /// Collective: lays out in the order that `order` of the root says, where it is complete.
  void adopt_order(std::vector<std::size_t> order);
  std::vector<BucketSpec> plan(std::span<const std::size_t> order) const;

  std::shared_ptr<ProcessGroup> group_;
  DdpOptions options_;
  std::vector<Gradient> gradients_;
  AccumulationHooks hooks_;
  NodeIndex accumulators_;
  std::vector<Bucket> buckets_;
  std::shared_ptr<CommHook> comm_hook_;
  Trace* trace_ = nullptr;
  Sentinel* sentinel_ = nullptr;
  const BucketOptimizers* optimizers_ = nullptr;

  StepPlan step_;
  std::optional<double> factor_;
  std::vector<bool> reached_;          // By the forwards since the last average; empty: not known.
  std::vector<std::size_t> arrivals_;  // Indices in the order of the last backward that averaged.
  std::vector<int> expected_;          // static_graph: arrivals of each gradient in a backward.
  bool graph_is_known_ = false;        // static_graph: expected_ and used_ are those of every step.
  at::Tensor used_;                    // i32 of each gradient: whether any rank uses it.
  Work used_work_;

  std::size_t next_bucket_ = 0;      // To launch.
  std::size_t first_in_flight_ = 0;  // Buckets before it have arrived.
  bool in_backward_ = false;
  bool told_unaveraged_ = false;  // The sentinel, of the backward that runs.
  bool end_is_queued_ = false;    // Of the outermost of nested backwards, where a hook behind forward saw it begin.
  Clock::time_point backward_start_;
  std::exception_ptr failure_;  // Communication failed in a hook; thrown at the end of backward.
  DdpStatistics statistics_;
};

}  // namespace lockstep::ddp
