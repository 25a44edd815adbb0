#include "bench/steps/measure.h"

#include <malloc.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <utility>

#include "bench/steps/environment.h"
#include "bench/steps/trainer.h"
#include "lockstep/core/base/check.h"
#include "lockstep/parallel/ddp/distributed_data_parallel.h"
#include "lockstep/parallel/group/memory_policy.h"

namespace lockstep::bench {
namespace {

constexpr int kMemorySteps = 4;  // From the third on, buckets have their final order.
constexpr int kScalars = 1000;
constexpr int kHostCostPairs = 100;
constexpr int kHostCostSteps = 5;

double rounded(double value) { return std::round(value * 1e3) / 1e3; }

double largest_over_ranks(ProcessGroup& world, double mine) {
  auto value = torch::tensor({mine}, torch::kFloat64);
  world.all_reduce(value, ReduceOp::kMax);
  return value.item<double>();
}

DdpOptions ddp_options(const StepOptions& options) {
  DdpOptions out;
  out.bucket_cap_bytes = static_cast<std::size_t>(options.bucket_mib * (1 << 20));
  return out;
}

/// The loss of one batch, which stays the same from step to step; `forward` runs the model, bare or wrapped.
template <typename Forward>
std::function<torch::Tensor()> loss_of(const ModelSpec& model, Forward forward) {
  return [forward = std::move(forward), inputs = model.inputs(), targets = model.targets().flatten()] {
    return torch::cross_entropy_loss(forward(inputs).flatten(0, -2), targets);
  };
}

/// Replicas must be bit-identical after training; throws InternalError otherwise.
void require_equal_replicas(ProcessGroup& world, const std::vector<torch::Tensor>& parameters) {
  for (const torch::Tensor& parameter : parameters) {
    auto theirs = parameter.detach().clone();
    world.broadcast(theirs, 0);
    LS_CHECK(torch::equal(theirs, parameter), "rank ", world.rank(),
             " does not hold rank 0's parameters after training");
  }
}

Json row_of(const char* event, const ModelSpec& model, const StepOptions& options, const char* mode) {
  return {{"event", event},         {"peer", "lockstep"},         {"model", model.name},  {"mode", mode},
          {"nproc", options.nproc}, {"threads", options.threads}, {"batch", model.batch}, {"hook", options.hook}};
}

/// "1234 kB" behind `name` in the kernel's sums over this process's mappings, in bytes.
std::int64_t mapped_bytes(const std::string& name) {
  std::ifstream rollup("/proc/self/smaps_rollup");
  for (std::string word; rollup >> word;) {
    std::int64_t kib = 0;
    if (word == name + ":" && rollup >> kib) return kib << 10;
  }
  throw SystemError(base::cat("reading ", name, " of /proc/self/smaps_rollup"), ENOENT);
}

/// What the program has from malloc and has not given back.
std::int64_t allocated_bytes() {
  const auto info = ::mallinfo2();
  return static_cast<std::int64_t>(info.uordblks + info.hblkhd);
}

}  // namespace

std::shared_ptr<ProcessGroup> join(const StepOptions& options) {
  at::set_num_threads(options.threads);
  InitOptions init;
  init.name = "bench";
  init.timeout = options.timeout();
  init.init_timeout = options.timeout();
  return init_process_group(init);
}

std::vector<Json> time_steps(const std::shared_ptr<ProcessGroup>& world, const ModelSpec& model,
                             const StepOptions& options) {
  torch::manual_seed(0);
  StepModel alone = model.make();
  torch::manual_seed(0);
  StepModel replicated = model.make();
  DistributedDataParallel<StepModel> ddp(replicated, world, ddp_options(options));
  if (options.hook != "none") {
    ddp.register_comm_hook(options.hook == "fp16" ? fp16_compress_hook() : bf16_compress_hook());
  }
  torch::manual_seed(100 + static_cast<std::uint64_t>(world->rank()));
  const auto loss_alone = loss_of(model, [&](const torch::Tensor& x) { return alone->forward(x); });
  Trainer nosync(alone->parameters(), loss_alone);
  // What averaging cannot undercut while every rank steps on all parameters: ranks that step together and exchange
  // nothing. They use memory at the same moments, above all in the optimizer.
  Trainer barrier(alone->parameters(), loss_alone, [&] { world->barrier(); });
  Trainer synced(replicated->parameters(), loss_of(model, [&](const torch::Tensor& x) { return ddp.forward(x); }));
  if (options.step_in_backward) synced.step_in(ddp.engine());

  std::vector<double> waits_ms;
  std::vector<double> hooks_ms;
  const auto note_times = [&] {
    waits_ms.push_back(1e3 * seconds(ddp.stats().last_wait));
    hooks_ms.push_back(1e3 * seconds(ddp.stats().last_in_hooks));
  };
  const int steps = options.steps > 0 ? options.steps : model.steps;
  const std::array<Trainer*, 3> trainers = {&nosync, &barrier, &synced};
  const auto run_blocks = [&](int block) {
    // Each goes first as often as the others.
    for (std::size_t i = 0; i < trainers.size(); ++i) {
      Trainer* const trainer = trainers[(static_cast<std::size_t>(block) + i) % trainers.size()];
      world->barrier();
      trainer == &synced ? trainer->run(steps, note_times) : trainer->run(steps);
    }
  };
  run_blocks(0);
  for (Trainer* const trainer : trainers) trainer->reset();
  waits_ms.clear();
  hooks_ms.clear();
  const Duration sentinel_before = ddp.stats().sentinel;
  for (int block = 0; block < options.blocks; ++block) run_blocks(block);
  require_equal_replicas(*world, replicated->parameters());
  LS_CHECK(std::isfinite(synced.last_loss()), model.name, ": the loss is ", synced.last_loss());

  std::vector<Json> rows;
  const Json environment = describe_environment(keep_freed_memory());
  for (const auto& [trainer, mode] :
       {std::pair(&nosync, "nosync"), std::pair(&barrier, "barrier"), std::pair(&synced, "ddp")}) {
    const bool synchronised = trainer == &synced;
    const double step_ms = largest_over_ranks(*world, trainer->median_ms());
    Json row = row_of("step", model, options, mode);
    row["params"] = count_parameters(*replicated);
    row["step_ms"] = rounded(step_ms);
    row["samples_per_s"] = rounded(static_cast<double>(model.batch * options.nproc) / step_ms * 1e3);
    row["wait_ms"] = synchronised ? rounded(largest_over_ranks(*world, median(waits_ms))) : 0.0;
    if (synchronised) {
      row["step_in_backward"] = options.step_in_backward;
      row["hooks_ms"] = rounded(largest_over_ranks(*world, median(hooks_ms)));
      const double in_sentinel_ms = 1e3 * seconds(ddp.stats().sentinel - sentinel_before);
      row["sentinel_percent"] = rounded(largest_over_ranks(*world, 100 * in_sentinel_ms / trainer->total_ms()));
    }
    row["cpu_ms"] = rounded(largest_over_ranks(*world, trainer->median_cpu_ms()));
    row["faults"] = rounded(largest_over_ranks(*world, trainer->faults()));
    row["steps"] = options.blocks * steps;
    row["torch"] = TORCH_VERSION;
    row["environment"] = environment;
    rows.push_back(std::move(row));
  }
  return rows;
}

Json measure_memory(const ModelSpec& model, const StepOptions& options, bool synchronise) {
  const bool kept = keep_freed_memory();
  at::set_num_threads(options.threads);
  const auto world = synchronise ? join(options) : nullptr;
  torch::manual_seed(0);
  StepModel net = model.make();
  std::optional<DistributedDataParallel<StepModel>> ddp;
  if (synchronise) ddp.emplace(net, world, ddp_options(options));
  Trainer trainer(net->parameters(),
                  loss_of(model, [&](const torch::Tensor& x) { return ddp ? ddp->forward(x) : net->forward(x); }));
  trainer.run(kMemorySteps);
  // Nobody lets go of what all map before all have looked.
  if (world) world->barrier();
  const auto largest = [&](std::int64_t mine) {
    return world ? static_cast<std::int64_t>(largest_over_ranks(*world, static_cast<double>(mine))) : mine;
  };
  const std::int64_t shared = mapped_bytes("Pss_Shmem");  // This rank's part of what several map.
  Json row = row_of("memory", model, options, synchronise ? "ddp" : "nosync");
  row["params"] = count_parameters(*net);
  row["bytes"] = largest(allocated_bytes() + shared);
  row["resident_bytes"] = largest(mapped_bytes("Anonymous") + shared);
  row["torch"] = TORCH_VERSION;
  row["environment"] = describe_environment(kept);
  return row;
}

namespace {

/// Nothing but parameters, of one element each.
struct ScalarsImpl : StepModelImpl {
  ScalarsImpl() {
    for (int i = 0; i < kScalars; ++i) scalars.push_back(register_parameter(base::cat("p", i), torch::zeros({})));
  }
  torch::Tensor forward(const torch::Tensor&) override { return torch::stack(scalars).sum(); }

  std::vector<torch::Tensor> scalars;
};

}  // namespace

Json measure_host_cost(const std::shared_ptr<ProcessGroup>& world, const StepOptions& options) {
  LS_CHECK(world->world_size() == 1, "ranks of others would be waited for");
  const auto make = [] { return StepModel(std::shared_ptr<StepModelImpl>(std::make_shared<ScalarsImpl>())); };
  StepModel alone = make();
  StepModel replicated = make();
  DistributedDataParallel<StepModel> ddp(replicated, world, ddp_options(options));
  const torch::Tensor nothing = torch::zeros({});
  Trainer nosync(alone->parameters(), [&] { return alone->forward(nothing); });
  Trainer synced(replicated->parameters(), [&] { return ddp.forward(nothing); });
  std::vector<double> differences_ms;
  std::vector<double> alone_ms;
  for (int pair = -1; pair < kHostCostPairs; ++pair) {
    nosync.reset();
    synced.reset();
    nosync.run(kHostCostSteps);
    synced.run(kHostCostSteps);
    if (pair < 0) continue;
    differences_ms.push_back(synced.median_ms() - nosync.median_ms());
    alone_ms.push_back(nosync.median_ms());
  }
  const auto each_ns = [](std::vector<double> ms) { return std::round(1e6 * median(std::move(ms)) / kScalars); };
  return {{"event", "host_cost"},
          {"peer", "lockstep"},
          {"backend", "self"},
          {"parameters", kScalars},
          {"ns_per_parameter", each_ns(differences_ms)},
          {"ns_per_parameter_without", each_ns(alone_ms)},
          {"steps", kHostCostPairs * kHostCostSteps},
          {"torch", TORCH_VERSION},
          {"environment", describe_environment(keep_freed_memory())}};
}

}  // namespace lockstep::bench
