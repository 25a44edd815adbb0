// Ranks with unequal numbers of batches: join() lets those that run out early answer for themselves until all are done.
//
//   lockstep run --nproc-per-node 2 -- ./uneven_inputs

#include <cstdio>

#include <torch/torch.h>

#include "lockstep/lockstep.h"

int main() {
  auto world = lockstep::init_process_group();
  torch::manual_seed(0);
  torch::nn::Linear net(4, 1);
  lockstep::DistributedDataParallel ddp(net, world);
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  const auto truth = torch::tensor({{1.0f}, {-2.0f}, {3.0f}, {0.5f}});

  // Rank r has 200 + 50 r batches, of 8 to 15 samples.
  const int batches = 200 + 50 * world->rank();
  torch::manual_seed(1 + static_cast<std::uint64_t>(world->rank()));
  int steps = 0;
  ddp->join([&] {
    for (; steps < batches; ++steps) {
      const auto x = torch::randn({8 + steps % 8, 4});
      optimizer.zero_grad();
      torch::mse_loss(ddp->forward(x), x.mm(truth)).backward();
      optimizer.step();
    }
  });

  // All ranks hold the replica of one that worked to the end.
  const double error = (net->weight.detach().t() - truth).abs().max().item<double>();
  auto total = torch::tensor({static_cast<double>(steps)}, torch::kFloat64);
  world->all_reduce(total);
  std::printf("rank %d: %d of %.0f batches, %lld averaged backward passes, largest error of a weight %.1e\n",
              world->rank(), steps, total.item<double>(), static_cast<long long>(ddp->stats().steps), error);
  return error < 1e-2 ? 0 : 1;
}
