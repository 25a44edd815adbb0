// Batch normalisation over the batches of all ranks: the same numbers as one process with the whole batch.
//
//   lockstep run --nproc-per-node 2 -- ./sync_batch_norm [data/digits]

#include <cstdio>
#include <cstdlib>
#include <numeric>

#include <torch/torch.h>

#include "lockstep/lockstep.h"

struct NetImpl : torch::nn::Module {
  torch::Tensor forward(torch::Tensor x) { return tail->forward(torch::relu(norm(conv(x)))); }

  torch::nn::Conv2d conv{register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 8, 3).padding(1)))};
  // Plain batch normalisation until it gets a group.
  lockstep::SyncBatchNorm norm{register_module("norm", lockstep::SyncBatchNorm(8))};
  torch::nn::Sequential tail{register_module(
      "tail", torch::nn::Sequential(torch::nn::MaxPool2d(4), torch::nn::Flatten(), torch::nn::Linear(32, 16),
                                    torch::nn::BatchNorm1d(16), torch::nn::Linear(16, 10)))};
};
TORCH_MODULE(Net);

/// Trains for some steps on `images`, and returns all weights and running statistics as one vector.
template <typename Forward>
torch::Tensor train(Net& net, const Forward& forward, const torch::Tensor& images, const torch::Tensor& target) {
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  for (int step = 0; step < 10; ++step) {
    optimizer.zero_grad();
    torch::cross_entropy_loss(forward(images), target).backward();
    optimizer.step();
  }
  std::vector<torch::Tensor> all;
  for (const auto& tensor : net->parameters()) all.push_back(tensor.detach().flatten());
  for (const auto& tensor : net->buffers()) all.push_back(tensor.to(torch::kDouble).flatten());
  return torch::cat(all);
}

int main(int argc, char** argv) {
  auto world = lockstep::init_process_group();
  const int rank = world->rank();
  std::vector<std::int64_t> first(static_cast<std::size_t>(24 * world->world_size()));
  std::iota(first.begin(), first.end(), 0);
  const auto data = lockstep::data::idx_images(argc > 1 ? argv[1] : "data/digits", "train");
  const auto whole = data.get_batch(first);
  const auto images = whole.data.to(torch::kDouble);

  const auto make_net = [] {
    torch::manual_seed(0);
    Net net;
    net->to(torch::kDouble);
    return net;
  };
  // One process with the whole batch ...
  Net alone = make_net();
  const auto expected = train(
      alone, [&](const auto& x) { return alone->forward(x); }, images, whole.target);

  // ... and every rank with its part of it. Norms have a group of their own; DDP needs no broadcast of buffers, which
  // are equal on all ranks already.
  std::vector<int> ranks(static_cast<std::size_t>(world->world_size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  const auto distance = [&](bool synchronised) {
    Net net = make_net();
    if (synchronised) lockstep::convert_sync_batch_norm(*net, world->new_group(ranks, {.name = "norms"}));
    lockstep::DistributedDataParallel ddp(net, world, {.broadcast_buffers = false});
    const auto result = train(
        net, [&](const auto& x) { return ddp->forward(x); }, images.narrow(0, rank * 24, 24),
        whole.target.narrow(0, rank * 24, 24));
    return (result - expected).abs().max().template item<double>();
  };
  const double with = distance(true);
  const double without = distance(false);
  if (rank == 0) {
    std::printf("largest difference to one process after 10 steps on %zu images, %d ranks:\n", first.size(),
                world->world_size());
    std::printf("  statistics of each rank's part   %.1e\n  statistics of the global batch   %.1e\n", without, with);
  }
  return with < 1e-9 && (world->world_size() == 1 || without > 1e-3) ? EXIT_SUCCESS : EXIT_FAILURE;
}
