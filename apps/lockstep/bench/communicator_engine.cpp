#include "apps/lockstep/bench/communicator_engine.h"

#include <new>

namespace lockstep::bench {
namespace {

constexpr int kRoot = 0;

}  // namespace

void* CommunicatorEngine::allocate(std::size_t nbytes) {
  if (in_backend_) {
    backend_memory_.push_back(communicator_->allocate(nbytes));
    return backend_memory_.back().data;
  }
  constexpr std::align_val_t kPage{4096};
  user_memory_.emplace_back(static_cast<std::byte*>(::operator new(nbytes, kPage)),
                            [](std::byte* data) { ::operator delete(data, kPage); });
  return user_memory_.back().get();
}

void CommunicatorEngine::barrier() { communicator_->barrier(); }

void CommunicatorEngine::broadcast(void* data, std::size_t count) {
  communicator_->broadcast(data, count, dtype_, kRoot);
}

void CommunicatorEngine::all_reduce(void* data, std::size_t count) {
  communicator_->all_reduce(data, data, count, dtype_, op_);
}

void CommunicatorEngine::reduce(const void* input, void* output, std::size_t count) {
  communicator_->reduce(input, rank() == kRoot ? output : nullptr, count, dtype_, kRoot, op_);
}

void CommunicatorEngine::reduce_scatter(const void* input, void* output, std::size_t count) {
  communicator_->reduce_scatter(input, output, count, dtype_, op_);
}

void CommunicatorEngine::all_gather(const void* input, void* output, std::size_t count) {
  communicator_->all_gather(input, output, count, dtype_);
}

void CommunicatorEngine::gather(const void* input, void* output, std::size_t count) {
  communicator_->gather(input, rank() == kRoot ? output : nullptr, count, dtype_, kRoot);
}

void CommunicatorEngine::scatter(const void* input, void* output, std::size_t count) {
  communicator_->scatter(rank() == kRoot ? input : nullptr, output, count, dtype_, kRoot);
}

void CommunicatorEngine::all_to_all(const void* input, void* output, std::size_t count) {
  communicator_->all_to_all(input, output, count, dtype_);
}

void CommunicatorEngine::sendrecv(const void* input, void* output, std::size_t count) {
  const int ranks = communicator_->world_size();
  Work sent = communicator_->send_async(input, count, dtype_, (rank() + 1) % ranks);
  Work received = communicator_->recv_async(output, count, dtype_, (rank() + ranks - 1) % ranks);
  received.wait();
  sent.wait();
}

void CommunicatorEngine::gather_doubles(const double* mine, double* all, std::size_t count) {
  communicator_->all_gather(mine, all, count, DType::kFloat64);
}

}  // namespace lockstep::bench
