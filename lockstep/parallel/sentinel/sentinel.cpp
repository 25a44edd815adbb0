// What one rank knows by itself is kept up to date without communication; what needs the others travels in one small
// all_gather at the end of scheduled backward passes, when all ranks are at the same point anyway. Every rank then
// judges the same records and comes to the same findings.
#include "lockstep/parallel/sentinel/sentinel.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include <ATen/ATen.h>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/log.h"
#include "lockstep/core/comm/blobs.h"
#include "lockstep/parallel/group/process_group.h"
#include "lockstep/parallel/group/watched_memory.h"
#include "lockstep/parallel/sentinel/checksum.h"
#include "lockstep/parallel/sentinel/diagnosis.h"
#include "lockstep/parallel/sentinel/optimizer_settings.h"
#include "lockstep/parallel/sentinel/record.h"
#include "lockstep/parallel/sentinel/sample_sketch.h"
#include "lockstep/parallel/sentinel/schedule.h"

namespace lockstep {

using sentinel::GradientJudgement;
using sentinel::GradientVerdict;
using sentinel::LocalFinding;
using sentinel::Record;

namespace {

constexpr std::array<FindingKind, 4> kLocalKinds = {FindingKind::kGradientsNotAveraged, FindingKind::kParametersReduced,
                                                    FindingKind::kGradientsReducedTwice,
                                                    FindingKind::kOptimizerParameters};

std::size_t index_of(FindingKind kind) { return static_cast<std::size_t>(kind); }

/// The members of a group, by their ranks in the world.
std::vector<int> members(const Communicator& communicator) {
  std::vector<int> ranks;
  for (int rank = 0; rank < communicator.world_size(); ++rank) ranks.push_back(communicator.global_rank(rank));
  std::ranges::sort(ranks);
  return ranks;
}

}  // namespace

class Sentinel::Impl : public std::enable_shared_from_this<Impl> {
 public:
  Impl(std::shared_ptr<ProcessGroup> group, NamedParameters parameters, SentinelOptions options)
      : group_(std::move(group)), parameters_(std::move(parameters)), options_(options) {
    LS_REQUIRE(group_ != nullptr, "Sentinel: group is null; make one with init_process_group()");
    LS_REQUIRE(options_.checksum_every >= 1, "Sentinel: checksum_every is ", options_.checksum_every,
               "; expected at least 1 step");
  }

  bool on() const noexcept { return options_.enabled; }
  bool has_peers() const noexcept { return options_.enabled && group_->world_size() > 1; }
  bool state_is_due(std::int64_t step) const noexcept { return sentinel::state_is_due(step, options_.checksum_every); }

  void watch_memory();
  void on_reduction(const group::WatchedReduction& seen);
  void begin_forward();
  void begin_backward() noexcept { averaged_ = false; }
  void note_local_backward();
  void require_averaged();
  void begin_step() {
    require_averaged();
    unaveraged_ = false;  // What changes the parameters from here on has averages.
  }
  void end_step();

  std::shared_ptr<ProcessGroup> group_;
  NamedParameters parameters_;
  SentinelOptions options_;
  sentinel::Optimizers optimizers_;
  std::vector<Finding> findings_;
  std::int64_t step_ = 0;  // Backward passes that averaged.
  sentinel::SampleSketch sketch_;
  bool sketches_open_ = true;  // Alike on all ranks.
  sentinel::GradientSample sample_;
  std::string sample_name_;

 private:
  void check_optimizer_parameters();
  Record make_record(bool state);
  void compare_settings(const std::vector<Record>& records);
  void compare_gradients(const std::vector<Record>& records);
  void compare_parameters(const std::vector<Record>& records);
  void compare_samples(const std::vector<Record>& records);
  void take_over_local_findings(const std::vector<Record>& records);

  bool said(FindingKind kind) const noexcept { return said_[index_of(kind)]; }
  void add(FindingKind kind, std::string tensor, std::vector<int> ranks, const std::string& text);
  void find_local(FindingKind kind, std::size_t tensor, std::size_t count = 1);

  std::array<bool, kFindingKinds> said_{};
  std::array<LocalFinding, kFindingKinds> found_{};
  bool averaged_ = false;              // .grad holds averages, until the next forward.
  bool unaveraged_ = false;            // .grad holds something of this rank alone.
  bool program_averages_ = false;      // By itself, since the last backward or forward.
  std::vector<std::uint64_t> probes_;  // Of the parameters, when .grad began to be this rank's.
  std::vector<std::uint64_t> checksums_;
  std::int64_t equal_until_ = 0;
  std::string settings_text_;
  std::string settings_difference_;
  bool gradients_differ_ = false;
  sentinel::SampleSchedule samples_;
  std::size_t exchanges_ = 0;
  std::string raise_;  // Text of the first new finding of an exchange.
  std::vector<group::WatchedRange> ranges_;
  std::optional<group::MemoryWatch> watch_;
};

// ---- what a rank sees by itself ----

/// Parameters first, then their gradients where they are now.
void Sentinel::Impl::watch_memory() {
  std::vector<group::WatchedRange> ranges;
  for (const auto& [name, tensor] : parameters_) ranges.push_back(group::watched_range(tensor));
  for (const auto& [name, tensor] : parameters_) ranges.push_back(group::watched_range(tensor.grad()));
  const auto same = [](const auto& a, const auto& b) { return a.begin == b.begin && a.nbytes == b.nbytes; };
  if (std::ranges::equal(ranges, ranges_, same)) return;
  ranges_ = ranges;
  std::int64_t trained = 0;
  for (const auto& [name, tensor] : parameters_) trained += tensor.requires_grad() ? tensor.numel() : 0;
  const auto watcher = [weak = weak_from_this()](const group::WatchedReduction& seen) {
    if (const auto self = weak.lock()) self->on_reduction(seen);
  };
  watch_.emplace(ranges, watcher, trained);
}

void Sentinel::Impl::on_reduction(const group::WatchedReduction& seen) {
  // Among other ranks it is another kind of parallelism, which has sums of its own.
  if (members(seen.call.communicator) != members(group_->communicator())) return;
  if (seen.index == ranges_.size()) {
    // As large as all gradients: likely a copy of them, which the program averages by itself.
    const bool mean = seen.reduction.op == ReduceOp::kAvg || seen.reduction.op == ReduceOp::kSum;
    if (mean && std::exchange(unaveraged_, false)) program_averages_ = true;
    return;
  }
  const bool gradient = seen.index >= parameters_.size();
  const std::size_t index = gradient ? seen.index - parameters_.size() : seen.index;
  if ((unaveraged_ || program_averages_) && (gradient || seen.reduction.op == ReduceOp::kAvg)) {
    // The program averages by itself: gradients, or parameters after steps of the ranks' own.
    unaveraged_ = false;
    program_averages_ = true;
  } else if (!gradient) {
    find_local(FindingKind::kParametersReduced, index);
  } else if (averaged_) {
    find_local(FindingKind::kGradientsReducedTwice, index);
  }
}

void Sentinel::Impl::begin_forward() {
  require_averaged();
  averaged_ = program_averages_ = false;
}

void Sentinel::Impl::note_local_backward() {
  averaged_ = program_averages_ = false;
  if (unaveraged_ || group_->world_size() == 1) return;
  unaveraged_ = true;
  watch_memory();  // So that averages of the program's own are seen.
  probes_.clear();
  for (const auto& [name, tensor] : parameters_) probes_.push_back(sentinel::probe(tensor));
}

void Sentinel::Impl::require_averaged() {
  if (!unaveraged_) return;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (sentinel::probe(parameters_[i].second) == probes_[i]) continue;
    unaveraged_ = false;
    return find_local(FindingKind::kGradientsNotAveraged, i);
  }
}

void Sentinel::Impl::check_optimizer_parameters() {
  if (optimizers_.empty() || said(FindingKind::kOptimizerParameters)) return;
  const auto missing = sentinel::left_out(optimizers_, parameters_);
  if (!missing.empty()) find_local(FindingKind::kOptimizerParameters, missing.front(), missing.size());
}

void Sentinel::Impl::find_local(FindingKind kind, std::size_t tensor, std::size_t count) {
  if (said(kind)) return;
  const LocalFinding finding{static_cast<std::int32_t>(tensor), static_cast<std::int32_t>(count)};
  found_[index_of(kind)] = finding;
  const std::string& name = parameters_[tensor].first;
  add(kind, name, {group_->rank()}, sentinel::local_text(kind, name, finding, parameters_.size()));
  if (options_.action != SentinelAction::kThrow) return;
  raise_.clear();
  group_->end(findings_.back().text);
  throw MismatchError(findings_.back().text);
}

void Sentinel::Impl::add(FindingKind kind, std::string tensor, std::vector<int> ranks, const std::string& text) {
  if (said(kind)) return;
  said_[index_of(kind)] = true;
  std::string line = base::cat("sentinel, group ", group_->name(), ", step ", step_, ": ", text);
  if (raise_.empty()) raise_ = line;
  if (options_.action == SentinelAction::kWarn && group_->rank() == 0) LS_LOG(kWarning, line);
  findings_.push_back({kind, step_, std::move(tensor), std::move(ranks), std::move(line)});
}

// ---- what the ranks see together ----

void Sentinel::Impl::end_step() {
  require_averaged();
  unaveraged_ = program_averages_ = false;
  averaged_ = true;
  ++step_;
  const bool samples = samples_.is_due(step_) && sketches_open_;
  const bool state = state_is_due(step_);
  if (state) check_optimizer_parameters();
  if (!has_peers() || !(state || samples)) return;
  if (state) watch_memory();
  const std::vector<Record> records = sentinel::gather_records(*group_, make_record(state), sketches_open_);
  raise_.clear();
  if (state) {
    compare_settings(records);
    compare_gradients(records);
    compare_parameters(records);
  }
  if (sketches_open_) compare_samples(records);
  take_over_local_findings(records);
  if (options_.action == SentinelAction::kThrow && !raise_.empty()) throw MismatchError(raise_);
}

Record Sentinel::Impl::make_record(bool state) {
  Record record;
  record.found = found_;
  record.sketch = sketch_.record();
  if (!state) return record;
  checksums_.clear();
  for (const auto& [name, tensor] : parameters_) {
    checksums_.push_back(sentinel::tensor_checksum(tensor));
    record.parameters = sentinel::combine(record.parameters, checksums_.back());
  }
  settings_text_ = sentinel::describe(optimizers_, parameters_);
  if (!optimizers_.empty()) record.settings = sentinel::checksum(std::as_bytes(std::span(settings_text_)));
  record.gradients = std::exchange(sample_, {});
  return record;
}

void Sentinel::Impl::compare_settings(const std::vector<Record>& records) {
  const bool equal = std::ranges::all_of(records, [&](const auto& r) { return r.settings == records[0].settings; });
  if (equal || said(FindingKind::kOptimizerSettings)) return;
  const auto texts = all_gather_blobs(group_->communicator(), settings_text_,
                                      {.timeout = {}, .label = "sentinel: optimizer settings"});
  std::vector<int> ranks;
  for (int rank = 1; rank < group_->world_size(); ++rank) {
    const auto difference = sentinel::first_difference(texts[0], texts[static_cast<std::size_t>(rank)], rank);
    if (difference.empty()) continue;
    if (ranks.empty()) settings_difference_ = difference;
    ranks.push_back(rank);
  }
  add(FindingKind::kOptimizerSettings, {}, std::move(ranks),
      base::cat("optimizer settings differ: ", settings_difference_,
                "; replicas stay equal only where every rank steps alike"));
}

void Sentinel::Impl::compare_gradients(const std::vector<Record>& records) {
  std::vector<sentinel::GradientSample> samples;
  for (const Record& record : records) samples.push_back(record.gradients);
  GradientJudgement judgement = sentinel::judge_gradients(samples);
  if (judgement.verdict == GradientVerdict::kSummed) {
    add(FindingKind::kGradientsSummed, sample_name_, std::move(judgement.ranks),
        base::cat("gradients (of '", sample_name_, "' ..) are summed over the ranks, not averaged: ", records.size(),
                  " times their mean; likely a communication hook that does not divide by world_size"));
  } else if (judgement.verdict == GradientVerdict::kLocal) {
    gradients_differ_ = true;
    const std::string text =
        base::cat("gradients (of '", sample_name_, "' ..) on ", sentinel::ranks_text(judgement.ranks),
                  " are after averaging what they were before it, not the mean over the ranks; likely a communication "
                  "hook that does not reduce");
    add(FindingKind::kGradientsNotAveraged, sample_name_, std::move(judgement.ranks), text);
  }
}

void Sentinel::Impl::compare_parameters(const std::vector<Record>& records) {
  if (std::ranges::all_of(records, [&](const auto& r) { return r.parameters == records[0].parameters; })) {
    equal_until_ = step_;
    return;
  }
  if (said(FindingKind::kParametersDiffer)) return;
  const std::size_t tensors = parameters_.size();
  const std::vector<std::uint64_t> all = sentinel::gather_checksums(*group_, checksums_);
  sentinel::Divergence facts{.step = step_, .equal_until = equal_until_, .tensors = tensors};
  for (std::size_t i = tensors; i-- > 0;) {
    std::vector<std::uint64_t> values;
    for (std::size_t rank = 0; rank < records.size(); ++rank) values.push_back(all[rank * tensors + i]);
    std::vector<int> ranks = sentinel::minority(values);
    if (ranks.empty()) continue;
    ++facts.differing;
    facts.tensor = parameters_[i].first;
    facts.ranks = std::move(ranks);
  }
  facts.settings_difference = settings_difference_;
  facts.gradients_differ = gradients_differ_;
  for (std::size_t rank = 0; rank < records.size(); ++rank) {
    const bool stepped = records[rank].found[index_of(FindingKind::kGradientsNotAveraged)].found();
    if (stepped) facts.stepped_locally.push_back(static_cast<int>(rank));
  }
  add(FindingKind::kParametersDiffer, facts.tensor, facts.ranks, sentinel::divergence_text(facts));
}

void Sentinel::Impl::compare_samples(const std::vector<Record>& records) {
  std::vector<sentinel::SketchRecord> sketches;
  for (const Record& record : records) sketches.push_back(record.sketch);
  const bool last = std::ranges::all_of(sketches, [](const auto& sketch) { return sketch.frozen != 0; });
  const auto pairs = sentinel::find_same_samples(sketches, exchanges_++, last);
  sketches_open_ = pairs.empty() && !last;
  if (pairs.empty()) return;
  std::vector<int> ranks;
  for (const auto& pair : pairs) ranks.insert(ranks.end(), {pair.a, pair.b});
  std::ranges::sort(ranks);
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  const auto [a, b] = pairs.front();
  const auto overlap =
      sentinel::overlap_of(sketches[static_cast<std::size_t>(a)], sketches[static_cast<std::size_t>(b)]);
  const std::string text = base::cat(sentinel::ranks_text(ranks), " see the same samples (ranks ", a, " and ", b,
                                     " share ", overlap.shared, " of ", overlap.of,
                                     " compared rows of the first input): each rank needs a part of its own; use "
                                     "DistributedSampler with the rank and size of this group");
  add(FindingKind::kSameSamples, {}, std::move(ranks), text);
}

void Sentinel::Impl::take_over_local_findings(const std::vector<Record>& records) {
  for (const FindingKind kind : kLocalKinds) {
    if (said(kind)) continue;
    std::vector<int> ranks;
    LocalFinding first;
    for (std::size_t rank = 0; rank < records.size(); ++rank) {
      const LocalFinding& theirs = records[rank].found[index_of(kind)];
      if (!theirs.found()) continue;
      if (ranks.empty()) first = theirs;
      ranks.push_back(static_cast<int>(rank));
    }
    if (ranks.empty()) continue;
    const std::string& name = parameters_[static_cast<std::size_t>(first.tensor)].first;
    const std::string text = base::cat("on ", sentinel::ranks_text(ranks), ": ",
                                       sentinel::local_text(kind, name, first, parameters_.size()));
    add(kind, name, std::move(ranks), text);
  }
}

// ---- the calls ----

Sentinel::Sentinel(std::shared_ptr<ProcessGroup> group, NamedParameters parameters, SentinelOptions options)
    : impl_(std::make_shared<Impl>(std::move(group), std::move(parameters), options)) {
  if (impl_->has_peers()) impl_->watch_memory();
}
Sentinel::~Sentinel() = default;
Sentinel::Sentinel(Sentinel&&) noexcept = default;
Sentinel& Sentinel::operator=(Sentinel&&) noexcept = default;

void Sentinel::watch(const torch::optim::Optimizer& optimizer) {
  unwatch(optimizer);
  impl_->optimizers_.push_back(&optimizer);
}

void Sentinel::unwatch(const torch::optim::Optimizer& optimizer) noexcept {
  std::erase(impl_->optimizers_, &optimizer);
}

void Sentinel::before_forward(const std::vector<at::Tensor>& inputs) {
  if (!impl_->has_peers()) return;
  impl_->begin_forward();
  if (!impl_->sketches_open_ || impl_->sketch_.frozen() || inputs.empty()) return;
  const std::vector<std::uint64_t> rows = sentinel::hash_rows(inputs[0]);
  if (rows.empty()) return impl_->sketch_.freeze();
  impl_->sketch_.add_batch(rows);
}

void Sentinel::before_backward() noexcept { impl_->begin_backward(); }
void Sentinel::before_step() { impl_->begin_step(); }

bool Sentinel::wants_gradients() const noexcept { return impl_->has_peers() && impl_->state_is_due(impl_->step_ + 1); }

void Sentinel::sample_before(const at::Tensor& gradients, std::string_view name) {
  if (!wants_gradients()) return;
  impl_->sample_.count = sentinel::take_samples(gradients, impl_->sample_.before);
  impl_->sample_name_ = name;
}

void Sentinel::sample_after(const at::Tensor& gradients) {
  if (!wants_gradients() || impl_->sample_.count == 0) return;
  impl_->sample_.count = sentinel::take_samples(gradients, impl_->sample_.after);
}

void Sentinel::after_backward(bool averaged) {
  if (!impl_->on()) return;
  averaged ? impl_->end_step() : impl_->note_local_backward();
}

const std::vector<Finding>& Sentinel::findings() const noexcept { return impl_->findings_; }

}  // namespace lockstep
