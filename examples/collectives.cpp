// The collectives on tensors: every rank calls the same ones in the same order.
//
//   lockstep run --nproc-per-node 3 -- ./collectives

#include <cstdio>
#include <sstream>

#include <torch/torch.h>

#include "lockstep/lockstep.h"

namespace {

std::string text(const at::Tensor& tensor) {
  std::ostringstream out;
  for (int i = 0; i < tensor.numel(); ++i) out << (i == 0 ? "" : " ") << tensor[i].item<double>();
  return out.str();
}

}  // namespace

int main() {
  auto world = lockstep::init_process_group();
  const int rank = world->rank();

  // all_reduce: the sum of everyone's tensor, in place.
  auto sum = torch::full({2}, rank + 1.0);
  world->all_reduce(sum);

  // all_gather: everyone's tensor, in rank order.
  auto squares = torch::empty({world->world_size()});
  world->all_gather(squares, torch::full({1}, static_cast<float>(rank * rank)));

  // broadcast: rank 0's tensor on every rank.
  auto pi = rank == 0 ? torch::full({1}, 3.125) : torch::zeros({1});
  world->broadcast(pi, 0);

  // reduce_scatter: rank r keeps chunk r of the sum.
  auto chunk = torch::empty({1});
  world->reduce_scatter(chunk, torch::arange(world->world_size(), torch::kFloat32));

  // Started and not waited for: the tensor is the group's until wait() returns.
  auto maximum = torch::full({1}, rank * 10.0);
  lockstep::Work work = world->all_reduce_async(maximum, lockstep::ReduceOp::kMax);
  work.wait();

  std::printf("rank %d of %d: sum [%s] gathered [%s] broadcast [%s] chunk [%s] maximum [%s]\n", rank,
              world->world_size(), text(sum).c_str(), text(squares).c_str(), text(pi).c_str(), text(chunk).c_str(),
              text(maximum).c_str());
}
