// Gradient accumulation: several small batches make one step, and gradients are exchanged once for all of them.
//
//   lockstep run --nproc-per-node 2 -- ./accumulation [data/digits]

#include <cstdio>
#include <cstdlib>
#include <numeric>

#include <torch/torch.h>

#include "lockstep/lockstep.h"

torch::nn::Sequential make_net() {
  torch::manual_seed(0);
  torch::nn::Sequential net(torch::nn::Flatten(), torch::nn::Linear(64, 32), torch::nn::Tanh(),
                            torch::nn::Linear(32, 10));
  net->to(torch::kDouble);
  return net;
}

int main(int argc, char** argv) {
  auto world = lockstep::init_process_group();
  const auto data = lockstep::data::idx_images(argc > 1 ? argv[1] : "data/digits", "train");
  constexpr std::int64_t kParts = 4;
  constexpr std::int64_t kBatch = 16;  // Of a rank, and of a part.
  const std::int64_t global_batch = kParts * kBatch * world->world_size();

  auto alone = make_net();
  torch::optim::SGD alone_optimizer(alone->parameters(), 0.1);
  auto net = make_net();
  lockstep::DistributedDataParallel ddp(net, world);
  torch::optim::SGD optimizer(net->parameters(), 0.1);

  std::vector<std::int64_t> indices(static_cast<std::size_t>(global_batch));
  for (int step = 0; step < 5; ++step) {
    std::iota(indices.begin(), indices.end(), step * global_batch);
    const auto whole = data.get_batch(indices);
    const auto images = whole.data.to(torch::kDouble);

    // One process with the big batch.
    alone_optimizer.zero_grad();
    torch::cross_entropy_loss(alone->forward(images), whole.target).backward();
    alone_optimizer.step();

    // This rank's parts, one after the other. Each loss is the mean of its part, so it counts 1 / kParts.
    optimizer.zero_grad();
    const auto backward = [&](std::int64_t part) {
      const std::int64_t first = (world->rank() * kParts + part) * kBatch;
      auto output = ddp->forward(images.narrow(0, first, kBatch));
      (torch::cross_entropy_loss(output, whole.target.narrow(0, first, kBatch)) / kParts).backward();
    };
    {
      const auto guard = ddp->no_sync();  // Adds to the local gradients, and sends nothing.
      for (std::int64_t part = 0; part + 1 < kParts; ++part) backward(part);
    }
    backward(kParts - 1);  // Exchanges the sum.
    optimizer.step();
  }

  const auto weights = [](const auto& module) {
    return torch::nn::utils::parameters_to_vector(module->parameters()).detach();
  };
  const double difference = (weights(net) - weights(alone)).abs().max().item<double>();
  const auto exchanges = static_cast<int>(ddp->stats().steps);
  if (world->rank() == 0) {
    std::printf("5 steps of %d x %d x %d images: %d exchanges of gradients\n", world->world_size(),
                static_cast<int>(kParts), static_cast<int>(kBatch), exchanges);
    std::printf("largest difference to one process with batches of %d: %.1e\n", static_cast<int>(global_batch),
                difference);
  }
  return difference < 1e-12 && exchanges == 5 ? EXIT_SUCCESS : EXIT_FAILURE;
}
