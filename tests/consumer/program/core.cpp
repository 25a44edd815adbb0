#include <cstdio>

#include <lockstep/core.h>

int main() {
  const auto job = lockstep::init_from_environment();
  float sum = static_cast<float>(job.environment.rank + 1);
  job.communicator->all_reduce(&sum, &sum, 1, lockstep::DType::kFloat32);
  std::printf("rank %d of %d: %g\n", job.environment.rank, job.environment.world_size, static_cast<double>(sum));
  return sum == 3.0F ? 0 : 1;  // 1 + 2, on two ranks
}
