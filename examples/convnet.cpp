// A convolution network on handwritten digits, trained by any number of workers:
//
//   lockstep run --nproc-per-node 2 -- ./convnet [data/digits]

#include <cstdio>

#include <torch/torch.h>

#include "lockstep/lockstep.h"

struct LeNetImpl : torch::nn::Module {
  torch::Tensor forward(torch::Tensor x) {
    x = torch::max_pool2d(torch::relu(conv1(x)), 2);
    x = torch::max_pool2d(torch::relu(conv2(x)), 2);
    x = torch::relu(fc1(x.flatten(1)));
    return fc3(torch::relu(fc2(x)));
  }

  // Padding keeps 8x8 images large enough to be pooled twice.
  torch::nn::Conv2d conv1{register_module("conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 6, 5).padding(2)))};
  torch::nn::Conv2d conv2{register_module("conv2", torch::nn::Conv2d(torch::nn::Conv2dOptions(6, 16, 5).padding(2)))};
  torch::nn::Linear fc1{register_module("fc1", torch::nn::Linear(64, 120))};
  torch::nn::Linear fc2{register_module("fc2", torch::nn::Linear(120, 84))};
  torch::nn::Linear fc3{register_module("fc3", torch::nn::Linear(84, 10))};
};
TORCH_MODULE(LeNet);

int main(int argc, char** argv) {
  const std::string directory = argc > 1 ? argv[1] : "data/digits";
  auto world = lockstep::init_process_group();  // rank, size, address: from the launcher's environment
  auto data = lockstep::data::idx_images(directory, "train");
  lockstep::DistributedSampler sampler(data.size(), *world);
  torch::manual_seed(0);
  LeNet net;  // an ordinary torch::nn module
  lockstep::DistributedDataParallel ddp(net, world);
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.05).momentum(0.95));

  // The same global batch whatever the number of workers.
  const std::size_t batch_size = 64 / static_cast<std::size_t>(world->world_size());
  for (int epoch = 0; epoch < 15; ++epoch) {
    sampler.set_epoch(static_cast<std::uint64_t>(epoch));
    for (auto& batch : lockstep::data::loader(data, sampler, {.batch_size = batch_size})) {
      optimizer.zero_grad();
      auto loss = torch::cross_entropy_loss(ddp->forward(batch.data), batch.target);
      loss.backward();  // gradients are averaged while backward still runs
      optimizer.step();
    }
  }

  // All ranks evaluate, each its share; each sample counts once.
  const auto test = lockstep::data::idx_images(directory, "test");
  const auto result = lockstep::train::evaluate(lockstep::train::Model(net), test, *world);
  if (world->rank() == 0) {
    std::printf("%lld of %lld test images right: %.1f %%\n", static_cast<long long>(result.correct),
                static_cast<long long>(result.total), result.accuracy() * 100);
  }
}
