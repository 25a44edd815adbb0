// Mixed precision: matrix products in bfloat16, weights in float32, a scaled loss, clipped gradients.
//
//   lockstep run --nproc-per-node 2 -- ./mixed_precision [data/digits]

#include <cstdio>
#include <cstdlib>

#include <torch/torch.h>

#include "lockstep/lockstep.h"

int main(int argc, char** argv) {
  const std::string directory = argc > 1 ? argv[1] : "data/digits";
  auto world = lockstep::init_process_group();
  auto data = lockstep::data::idx_images(directory, "train");
  lockstep::DistributedSampler sampler(data.size(), *world);
  torch::manual_seed(0);
  torch::nn::Sequential net(torch::nn::Flatten(), torch::nn::Linear(64, 128), torch::nn::ReLU(),
                            torch::nn::Linear(128, 10));
  lockstep::DistributedDataParallel ddp(net, world);
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  // bfloat16 has float32's range and would train without a scaler; with float16 on a GPU these lines stay the same.
  // With DDP every rank sees the same gradients; the group says so even where that is not the case.
  lockstep::GradScaler scaler({.growth_interval = 50, .group = world});

  const std::size_t batch_size = 64 / static_cast<std::size_t>(world->world_size());
  at::ScalarType inside = at::kFloat;
  int steps = 0;
  int skipped = 0;
  for (int epoch = 0; epoch < 4; ++epoch) {
    sampler.set_epoch(static_cast<std::uint64_t>(epoch));
    for (auto& batch : lockstep::data::loader(data, sampler, {.batch_size = batch_size})) {
      optimizer.zero_grad();
      torch::Tensor loss;
      {
        lockstep::Autocast autocast;  // CPU, bfloat16
        auto output = ddp->forward(batch.data);
        inside = output.scalar_type();
        loss = torch::cross_entropy_loss(output.to(torch::kFloat), batch.target);
      }
      scaler.scale(loss).backward();
      scaler.unscale(optimizer);
      lockstep::clip_grad_norm(net->parameters(), /*max_norm=*/1);
      skipped += scaler.step(optimizer) ? 0 : 1;
      scaler.update();
      ++steps;
    }
  }

  const auto test = lockstep::data::idx_images(directory, "test");
  const auto result = lockstep::train::evaluate(lockstep::train::Model(net), test, *world);
  const bool bfloat16 = inside == at::kBFloat16 && net->parameters()[0].scalar_type() == at::kFloat;
  if (world->rank() == 0) {
    std::printf("outputs in bfloat16, weights in float32: %s\n", bfloat16 ? "yes" : "no");
    std::printf("%d steps, %d skipped, scale %.0f at the end\n", steps, skipped, scaler.get_scale());
    std::printf("%.1f %% of the test images right\n", result.accuracy() * 100);
  }
  return bfloat16 && result.accuracy() > 0.9 ? EXIT_SUCCESS : EXIT_FAILURE;
}
