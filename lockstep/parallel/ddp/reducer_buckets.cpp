// The reducer's buckets: where they lie, and what happens to them between the last gradient and the average.

#include <algorithm>
#include <utility>

#include <ATen/ATen.h>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/log.h"
#include "lockstep/parallel/ddp/reducer.h"
#include "lockstep/parallel/group/dtype_map.h"

namespace lockstep::ddp {
namespace {

Duration between(Clock::time_point start, Clock::time_point end) {
  return std::chrono::duration_cast<Duration>(end - start);
}

}  // namespace

// ---- layout ----

std::vector<BucketSpec> Reducer::plan(std::span<const std::size_t> order) const {
  std::vector<ParameterSize> sizes;
  sizes.reserve(gradients_.size());
  for (const Gradient& gradient : gradients_) {
    const at::Tensor& tensor = gradient.parameter.tensor;
    sizes.push_back({tensor.numel(), group::from_torch(tensor.scalar_type()).value()});
  }
  return plan_buckets(sizes, order, {options_.first_bucket_bytes, options_.bucket_cap_bytes});
}

void Reducer::lay_out(const std::vector<BucketSpec>& plan) {
  std::vector<Bucket> buckets;
  statistics_.bucket_bytes.clear();
  for (const BucketSpec& spec : plan) {
    Bucket bucket;
    bucket.spec = spec;
    bucket.label = base::cat("bucket ", buckets.size(), ": ", gradients_[spec.parameters[0]].parameter.name,
                             spec.parameters.size() > 1 ? " .." : "");
    bucket.view.index = buckets.size();
    bucket.view.is_last = buckets.size() + 1 == plan.size();
    bucket.view.buffer = group_->allocate(spec.numel, spec.dtype, OpOptions{.timeout = {}, .label = bucket.label});
    for (std::size_t i = 0; i < spec.parameters.size(); ++i) {
      Gradient& gradient = gradients_[spec.parameters[i]];
      gradient.bucket = buckets.size();
      // Where a parameter may go unused, one that never had a gradient shall not have one: optimizers skip it.
      gradient.move_to(make_slot(bucket.view.buffer, spec.offsets[i], gradient.parameter.tensor), !tolerates_unused());
      bucket.view.gradients.push_back(gradient.slot);
      bucket.view.parameters.push_back(gradient.parameter.name);
    }
    statistics_.bucket_bytes.push_back(spec.nbytes());
    buckets.push_back(std::move(bucket));
  }
  buckets_ = std::move(buckets);
  if (comm_hook_) set_comm_hook(std::move(comm_hook_));
}

void Reducer::set_comm_hook(std::shared_ptr<CommHook> hook) {
  comm_hook_ = std::move(hook);
  std::vector<GradientBucket> views;
  for (const Bucket& bucket : buckets_) views.push_back(bucket.view);
  comm_hook_->prepare(*group_, views);
}

void Reducer::adopt_order(std::vector<std::size_t> order) {
  // Parameters that the root's graph does not reach come last, as they were laid out.
  std::vector<bool> listed(gradients_.size(), false);
  for (const std::size_t index : order) listed[index] = true;
  for (const Bucket& bucket : buckets_) {
    for (const std::size_t index : bucket.spec.parameters) {
      if (!listed[index]) order.push_back(index);
    }
  }
  std::vector<std::int64_t> shared(order.begin(), order.end());
  group_->communicator().broadcast(shared.data(), shared.size(), DType::kInt64, step_.root,
                                   {.timeout = {}, .label = "DDP: order of gradients"});
  std::vector<BucketSpec> current;
  for (const Bucket& bucket : buckets_) current.push_back(bucket.spec);
  const std::vector<BucketSpec> wanted = plan(std::vector<std::size_t>(shared.begin(), shared.end()));
  if (wanted != current) lay_out(wanted);
  statistics_.rebuilt = true;
  LS_LOG(kInfo, "DDP: ", buckets_.size(), " buckets in the order in which gradients arrive",
         wanted == current ? ", which is that of registration" : "");
}

// ---- on their way ----

void Reducer::reset_buckets() {
  failure_ = nullptr;
  next_bucket_ = 0;
  first_in_flight_ = 0;
  arrivals_.clear();
  statistics_.last_in_hooks = {};
  for (Gradient& gradient : gradients_) {
    gradient.ready = false;
    gradient.unused = false;
    gradient.arrivals = 0;
  }
  for (Bucket& bucket : buckets_) bucket.pending = bucket.spec.parameters.size();
}

void Reducer::launch_complete_buckets() {
  // In index order on every rank, whatever order gradients arrive in.
  for (; next_bucket_ < buckets_.size() && buckets_[next_bucket_].pending == 0; ++next_bucket_) {
    Bucket& bucket = buckets_[next_bucket_];
    bucket.launched = Clock::now();
    bucket.work = launch(bucket);
  }
}

Work Reducer::launch(Bucket& bucket) {
  const bool plain = !factor_ && (step_.divisor == 0 || step_.divisor == group_->world_size());
  const double divisor = step_.divisor == 0 ? group_->world_size() : step_.divisor;
  bucket.view.factor = factor_.value_or(1.0 / divisor);
  if (is_sampled(bucket)) sentinel_->sample_before(bucket.view.buffer, bucket.view.parameters.front());
  if (comm_hook_) return comm_hook_->start(*group_, bucket.view);
  // The communicator itself: what the program reduces through the group is watched, lest gradients are reduced twice.
  void* const data = bucket.view.buffer.data_ptr();
  const auto count = static_cast<std::size_t>(bucket.spec.numel);
  const Reduction op = plain ? Reduction{ReduceOp::kAvg} : premul_sum(bucket.view.factor);
  return group_->communicator().all_reduce_async(data, data, count, bucket.spec.dtype, op,
                                                 {.timeout = {}, .label = bucket.label});
}

bool Reducer::is_sampled(const Bucket& bucket) const {
  // A weighted average is not what the sentinel computes from the samples.
  return sentinel_ != nullptr && step_.watched && !factor_ && bucket.view.index == 0 && sentinel_->wants_gradients();
}

void Reducer::progress() {
  while (first_in_flight_ < next_bucket_ && buckets_[first_in_flight_].work.done()) {
    complete(buckets_[first_in_flight_++]);
  }
}

void Reducer::complete(Bucket& bucket) {
  bucket.work = Work();
  if (comm_hook_) comm_hook_->finish(*group_, bucket.view);
  if (is_sampled(bucket)) sentinel_->sample_after(bucket.view.buffer);
  bucket.finished = Clock::now();
}

void Reducer::wait_for_buckets(bool steps) {
  const auto start = Clock::now();
  auto waiting = start;
  statistics_.last_wait = statistics_.last_optimizer = {};
  const auto end_wait = [&](Clock::time_point now) {
    statistics_.last_wait += between(waiting, now);
    if (trace_ != nullptr) trace_->add({"wait for buckets", "wait", waiting, now});
  };
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    Bucket& bucket = buckets_[i];
    if (i == first_in_flight_) {
      ++first_in_flight_;
      bucket.work.wait();
      complete(bucket);
    }
    if (!steps) continue;
    end_wait(Clock::now());
    step_optimizers(bucket);
    waiting = Clock::now();
  }
  std::exchange(used_work_, Work()).wait();
  if (!steps) end_wait(Clock::now());

  // Buckets overlap each other: the time in which any was on its way, until the wait began.
  statistics_.last_hidden = {};
  Clock::time_point covered = buckets_.front().launched;
  for (const Bucket& bucket : buckets_) {
    const auto from = std::max(covered, bucket.launched);
    const auto until = std::min(bucket.finished, start);
    if (until > from) statistics_.last_hidden += between(from, until);
    covered = std::max(covered, until);
  }
  statistics_.last_hidden = std::max(Duration{}, statistics_.last_hidden - statistics_.last_in_hooks);
}

void Reducer::step_optimizers(const Bucket& bucket) {
  const auto start = Clock::now();
  std::vector<at::Tensor> parameters;
  for (const std::size_t index : bucket.spec.parameters) parameters.push_back(gradients_[index].parameter.tensor);
  optimizers_->step(parameters);
  const auto end = Clock::now();
  statistics_.last_optimizer += between(start, end);
  if (trace_ != nullptr) trace_->add({base::cat("optimizer, bucket ", bucket.view.index), "compute", start, end});
}

void Reducer::record_step() {
  ++statistics_.steps;
  statistics_.exposed += statistics_.last_wait + statistics_.last_in_hooks;
  statistics_.hidden += statistics_.last_hidden;
  for (const Bucket& bucket : buckets_) statistics_.bytes += static_cast<std::int64_t>(bucket.spec.nbytes());
  statistics_.last_unused.clear();
  for (Gradient& gradient : gradients_) {
    if (gradient.unused) statistics_.last_unused.push_back(gradient.parameter.name);
    gradient.arrived_since_average = false;
  }
  factor_.reset();
  reached_.clear();
  if (trace_ == nullptr) return;
  trace_->add({"backward", "compute", backward_start_, Clock::now()});
  for (const Bucket& bucket : buckets_) {
    trace_->add({base::cat("bucket ", bucket.view.index),
                 "communication",
                 bucket.launched,
                 bucket.finished,
                 {{"bytes", std::to_string(bucket.spec.nbytes())},
                  {"parameters", base::cat(bucket.view.parameters.size(), ": ", bucket.view.parameters.front(), " .. ",
                                           bucket.view.parameters.back())}}});
  }
}

// ---- parameters that are not used ----

void Reducer::start_used_map() {
  auto* const used = used_.data_ptr<std::int32_t>();
  for (std::size_t i = 0; i < gradients_.size(); ++i) used[i] = gradients_[i].arrived_since_average ? 1 : 0;
  used_work_ = group_->communicator().all_reduce_async(used, used, gradients_.size(), DType::kInt32, ReduceOp::kMax,
                                                       {.timeout = {}, .label = "DDP: used parameters"});
}

void Reducer::settle_unused() {
  const auto* const used = used_.data_ptr<std::int32_t>();
  for (std::size_t i = 0; i < gradients_.size(); ++i) {
    if (gradients_[i].unused) gradients_[i].settle_unused(used[i] != 0);
  }
  // A rank without an input has no graph: what the others learn without it, they would use without it ever after.
  graph_is_known_ = options_.static_graph && (graph_is_known_ || step_.everyone);
}

// ---- ranks without inputs ----

void Reducer::shadow_forward() {
  // The others know the order from their outputs; an empty one of this rank is not asked for, being no root.
  if (step_.synchronise && !statistics_.rebuilt) adopt_order({});
}

void Reducer::shadow_backward() {
  reset_buckets();
  if (sentinel_ != nullptr) sentinel_->before_backward();
  const at::NoGradGuard no_grad;
  for (Bucket& bucket : buckets_) {
    bucket.view.buffer.zero_();
    bucket.pending = 0;
  }
  for (Gradient& gradient : gradients_) gradient.arrived_since_average = false;
  average(/*steps=*/false);
  // Who steps in backward clears no gradients before the next one.
  if (steps_in_backward()) {
    for (Bucket& bucket : buckets_) bucket.view.buffer.zero_();
  }
  record_step();
}

}  // namespace lockstep::ddp
