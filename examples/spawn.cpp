// Workers without a launcher: lockstep::spawn runs a function in new processes of this host. Each trains a small
// network on inputs of its own; the weights stay the same on all of them.
//
//   ./spawn [workers]

#include <cstdio>
#include <cstdlib>

#include <torch/torch.h>

#include "lockstep/lockstep.h"

namespace {

void train(int rank, int world_size) {
  auto world = lockstep::init_process_group();
  torch::manual_seed(rank);
  torch::nn::Sequential net(torch::nn::Linear(10, 20), torch::nn::ReLU(), torch::nn::Linear(20, 10));
  lockstep::DistributedDataParallel ddp(net, world);
  torch::optim::SGD optimizer(net->parameters(), 0.05);

  double first_loss = 0;
  double last_loss = 0;
  for (int step = 0; step < 50; ++step) {
    const auto x = torch::randn({32, 10});
    optimizer.zero_grad();
    auto loss = torch::mse_loss(ddp->forward(x), x.flip(1));  // learns to reverse its input
    loss.backward();
    optimizer.step();
    last_loss = loss.item<double>();
    if (step == 0) first_loss = last_loss;
  }

  // Every rank has the same weights, bit for bit: the smallest and the largest of their sums are one number.
  auto lowest = net[0]->as<torch::nn::Linear>()->weight.detach().sum().reshape({1});
  auto highest = lowest.clone();
  world->all_reduce(lowest, lockstep::ReduceOp::kMin);
  world->all_reduce(highest, lockstep::ReduceOp::kMax);
  const bool same = torch::equal(lowest, highest);
  std::printf("worker %d of %d: loss %.3f -> %.3f, weights %s\n", rank, world_size, first_loss, last_loss,
              same ? "equal" : "differ");
  if (!same) throw lockstep::Error("the ranks' weights differ");
}

}  // namespace

int main(int argc, char** argv) {
  const int workers = argc > 1 ? std::atoi(argv[1]) : 2;
  try {
    lockstep::spawn(train, workers);
  } catch (const lockstep::Error& error) {
    std::fprintf(stderr, "spawn: %s\n", error.what());
    return EXIT_FAILURE;
  }
}
