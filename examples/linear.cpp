// Linear regression with DistributedDataParallel: each worker has samples of its own, and all find the same weights.
//
//   lockstep run --nproc-per-node 2 -- ./linear

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include <torch/torch.h>

#include "lockstep/lockstep.h"

int main() {
  auto world = lockstep::init_process_group();

  // y = 2 a - 3 b + 0.5 c + 1, with other inputs on each rank and, worse, other first weights: rank 0's count.
  torch::manual_seed(1 + world->rank());
  const auto truth = torch::tensor({{2.0f, -3.0f, 0.5f}});
  const auto x = torch::randn({256, 3});
  const auto y = x.matmul(truth.t()) + 1;

  torch::nn::Linear net(3, 1);
  lockstep::DistributedDataParallel ddp(net, world);
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  for (int step = 0; step < 100; ++step) {
    optimizer.zero_grad();
    auto loss = torch::mse_loss(ddp->forward(x), y);
    loss.backward();
    optimizer.step();
    // A loss is of this rank's samples; the mean over ranks is one all-reduce away.
    if (step % 25 == 0) {
      auto mean = loss.detach().clone();
      world->all_reduce(mean, lockstep::ReduceOp::kAvg);
      if (world->rank() == 0) std::printf("step %3d  loss %.6f\n", step, mean.item<double>());
    }
  }

  const double error = (net->weight - truth).abs().max().item<double>();
  const double bias_error = std::abs(net->bias.item<double>() - 1);
  std::printf("rank %d: largest error of a weight %.1e, of the bias %.1e\n", world->rank(), error, bias_error);
  return error < 1e-3 && bias_error < 1e-3 ? EXIT_SUCCESS : EXIT_FAILURE;
}
