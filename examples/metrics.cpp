// Metrics of all ranks in one all-reduce, exact whatever each rank's share; rank 0 logs and saves.
//
//   lockstep run --nproc-per-node 2 -- ./metrics [data/digits [weights.pt]]

#include <cstdio>
#include <cstdlib>

#include <torch/torch.h>

#include "lockstep/lockstep.h"

/// Sums that add up over batches and ranks; a mean of the ranks' means would be wrong for unequal shares.
struct Metrics {
  torch::Tensor sums = torch::zeros({3}, torch::kDouble);  // Of losses, of correct answers, of samples.

  void add(const torch::Tensor& output, const torch::Tensor& target) {
    const auto loss = torch::cross_entropy_loss(output, target, {}, at::Reduction::Sum);
    const auto correct = output.argmax(1).eq(target).sum();
    sums += torch::stack(
        {loss.to(torch::kDouble), correct.to(torch::kDouble), torch::full({}, target.size(0), torch::kDouble)});
  }
  void reduce(lockstep::ProcessGroup& group) { group.all_reduce(sums); }
  double loss() const { return (sums[0] / sums[2]).item<double>(); }
  double accuracy() const { return (sums[1] / sums[2]).item<double>(); }
  int samples() const { return static_cast<int>(sums[2].item<double>()); }
};

int main(int argc, char** argv) {
  const std::string directory = argc > 1 ? argv[1] : "data/digits";
  auto world = lockstep::init_process_group();
  const bool first = world->rank() == 0;
  auto data = lockstep::data::idx_images(directory, "train");
  const auto test = lockstep::data::idx_images(directory, "test");
  lockstep::DistributedSampler sampler(data.size(), *world);
  torch::manual_seed(0);
  torch::nn::Sequential net(torch::nn::Flatten(), torch::nn::Linear(64, 10));
  lockstep::DistributedDataParallel ddp(net, world);
  torch::optim::SGD optimizer(net->parameters(), 0.5);

  for (int epoch = 0; epoch < 5; ++epoch) {
    sampler.set_epoch(static_cast<std::uint64_t>(epoch));
    Metrics metrics;
    for (auto& batch : lockstep::data::loader(data, sampler, {.batch_size = 32})) {
      optimizer.zero_grad();
      auto output = ddp->forward(batch.data);
      torch::cross_entropy_loss(output, batch.target).backward();
      optimizer.step();
      metrics.add(output.detach(), batch.target);
    }
    metrics.reduce(*world);  // Every rank takes part; one of them prints.
    if (first) std::printf("epoch %d: loss %.4f, %.1f %% right\n", epoch + 1, metrics.loss(), metrics.accuracy() * 100);
  }

  // Unequal shares of the test set: rank r has r + 1 parts, and no sample counts twice.
  const torch::NoGradGuard no_grad;
  const auto total = static_cast<std::int64_t>(test.size());
  const std::int64_t size = world->world_size();
  const auto begin_of = [&](std::int64_t rank) { return total * (rank * (rank + 1)) / (size * (size + 1)); };
  std::vector<std::int64_t> share;
  for (std::int64_t i = begin_of(world->rank()); i < begin_of(world->rank() + 1); ++i) share.push_back(i);
  const auto batch = test.get_batch(share);
  Metrics metrics;
  metrics.add(net->forward(batch.data), batch.target);
  metrics.reduce(*world);

  // What evaluate() says, which deals the samples out in equal parts.
  const auto expected = lockstep::train::evaluate(lockstep::train::Model(net), test, *world);
  const bool right = metrics.samples() == static_cast<int>(total) && metrics.accuracy() == expected.accuracy() &&
                     std::abs(metrics.loss() - expected.mean_loss) < 1e-5;
  if (first) {
    std::printf("test: loss %.4f, %.1f %% of %d right; shares were unequal, and every sample counts once: %s\n",
                metrics.loss(), metrics.accuracy() * 100, metrics.samples(), right ? "yes" : "no");
    if (argc > 2) lockstep::train::save_weights(*net, argv[2]);  // The same weights on all ranks: one file.
  }
  world->barrier();  // From here on every rank may read the file.
  return right ? EXIT_SUCCESS : EXIT_FAILURE;
}
