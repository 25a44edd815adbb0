#include <cstdio>

#include <lockstep/lockstep.h>
#include <torch/torch.h>

int main() {
  const auto world = lockstep::init_process_group();
  torch::nn::Linear net(3, 1);
  lockstep::DistributedDataParallel ddp(net, world);
  ddp->forward(torch::full({2, 3}, world->rank() + 1.0F)).sum().backward();
  const auto mean = net->weight.grad().mean().item<float>();  // each rank's gradient is twice its input
  std::printf("rank %d of %d: %g\n", world->rank(), world->world_size(), static_cast<double>(mean));
  return mean == 3.0F ? 0 : 1;  // (2 + 4) / 2, on two ranks
}
