// A contrastive loss (InfoNCE, as in SimCLR and CLIP) over the global batch: each image is to be nearer to its other
// view than to all other images, whichever rank they are on.
//
//   lockstep run --nproc-per-node 2 -- ./contrastive [data/digits]

#include <cstdio>
#include <cstdlib>
#include <numeric>

#include <torch/torch.h>

#include "lockstep/lockstep.h"

torch::nn::Sequential make_encoder() {
  torch::manual_seed(0);
  torch::nn::Sequential encoder(torch::nn::Flatten(), torch::nn::Linear(64, 32), torch::nn::Tanh(),
                                torch::nn::Linear(32, 16));
  encoder->to(torch::kDouble);
  return encoder;
}

torch::Tensor normalised(const torch::Tensor& code) { return code / code.norm(2, 1, /*keepdim=*/true); }

/// Mean over `codes`, the k-th of which belongs to the (first + k)-th of `others`.
torch::Tensor info_nce(const torch::Tensor& codes, const torch::Tensor& others, std::int64_t first) {
  constexpr double kTemperature = 0.2;
  const auto similarity = codes.matmul(others.t()) / kTemperature;
  return torch::cross_entropy_loss(similarity, torch::arange(first, first + codes.size(0)));
}

int main(int argc, char** argv) {
  auto world = lockstep::init_process_group();
  const int size = world->world_size();
  constexpr std::int64_t kBatch = 32;  // Of a rank.
  std::vector<std::int64_t> indices(static_cast<std::size_t>(kBatch * size));
  std::iota(indices.begin(), indices.end(), 0);
  const auto data = lockstep::data::idx_images(argc > 1 ? argv[1] : "data/digits", "train");
  const auto images = data.get_batch(indices).data.to(torch::kDouble);
  // Two views of each image: one moved by a pixel, one with noise; the same on all ranks.
  torch::manual_seed(1);
  const auto moved = images.roll({1}, {3});
  const auto noisy = images + 0.1 * torch::randn_like(images);

  // One process with the whole batch.
  auto alone = make_encoder();
  torch::optim::SGD alone_optimizer(alone->parameters(), 0.5);
  // All ranks: DDP averages gradients in the world's group; the codes travel in a group of their own.
  auto encoder = make_encoder();
  lockstep::DistributedDataParallel ddp(encoder, world);
  torch::optim::SGD optimizer(encoder->parameters(), 0.5);
  std::vector<int> ranks(static_cast<std::size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  const auto group = world->new_group(ranks, {.name = "contrast"});

  const std::int64_t first = world->rank() * kBatch;
  double difference = 0;
  double losses[2] = {};
  for (int step = 0; step < 20; ++step) {
    alone_optimizer.zero_grad();
    auto both = normalised(alone->forward(torch::cat({moved, noisy}))).chunk(2);
    auto expected = info_nce(both[0], both[1], 0);
    expected.backward();

    // This rank encodes its own images, in one forward, and compares them with everybody's. The gradient of all_gather
    // brings back what the other ranks' losses say about these codes.
    optimizer.zero_grad();
    auto mine =
        normalised(ddp->forward(torch::cat({moved.narrow(0, first, kBatch), noisy.narrow(0, first, kBatch)}))).chunk(2);
    auto loss = info_nce(mine[0], lockstep::functional::all_gather(mine[1], group), first);
    loss.backward();

    for (std::size_t i = 0; i < encoder->parameters().size(); ++i) {
      const auto distance = encoder->parameters()[i].grad() - alone->parameters()[i].grad();
      difference = std::max(difference, distance.abs().max().item<double>());
    }
    losses[step == 0 ? 0 : 1] = expected.item<double>();
    alone_optimizer.step();
    optimizer.step();
  }
  if (world->rank() == 0) {
    std::printf("%zu images on %d ranks, each compared with all: loss %.3f, after 20 steps %.3f\n", indices.size(),
                size, losses[0], losses[1]);
    std::printf("largest difference of a gradient to one process with the whole batch: %.1e\n", difference);
  }
  return difference < 1e-9 && losses[1] < losses[0] ? EXIT_SUCCESS : EXIT_FAILURE;
}
