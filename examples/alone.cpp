// A training program as libtorch's users write it: one process, no Lockstep. distributed.cpp is the same program on any
// number of ranks; `diff alone.cpp distributed.cpp` has five lines.

#include <cstdio>

#include <torch/torch.h>

int main() {
  torch::manual_seed(0);
  // Two interleaved spirals: which one is a point of?
  const auto turns = torch::rand({2048, 1}) * 6;
  const auto labels = torch::randint(2, {2048});
  const auto angles = turns + labels.unsqueeze(1) * 3.14159265;
  const auto points = torch::cat({turns * angles.cos(), turns * angles.sin()}, 1) / 3;

  torch::nn::Sequential net(torch::nn::Linear(2, 64), torch::nn::Tanh(), torch::nn::Linear(64, 64), torch::nn::Tanh(),
                            torch::nn::Linear(64, 2));
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  for (int epoch = 0; epoch < 30; ++epoch) {
    const auto order = torch::randperm(2048);
    for (int first = 0; first < 2048; first += 64) {
      const auto batch = order.slice(0, first, first + 64);
      optimizer.zero_grad();
      const auto loss = torch::cross_entropy_loss(net->forward(points.index({batch})), labels.index({batch}));
      loss.backward();
      optimizer.step();
    }
  }
  const double right = net->forward(points).argmax(1).eq(labels).to(torch::kFloat64).mean().item<double>();
  std::printf("%.1f %% of the points on the right spiral\n", 100 * right);
  return right > 0.95 ? 0 : 1;
}
