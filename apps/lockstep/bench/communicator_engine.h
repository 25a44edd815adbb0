#pragma once

#include <memory>
#include <vector>

#include "apps/lockstep/bench/sweep.h"
#include "lockstep/core/comm/communicator.h"

namespace lockstep::bench {

/// A rank of Lockstep's own communicator, as what a sweep measures.
class CommunicatorEngine final : public Engine {
 public:
  /// `in_backend`: allocate() hands out memory of the backend, which is reduced without a copy; else any other.
  CommunicatorEngine(std::shared_ptr<Communicator> communicator, const SweepOptions& options, bool in_backend)
      : communicator_(std::move(communicator)),
        dtype_(options.dtype),
        op_(options.reduce_op),
        in_backend_(in_backend) {}

  int rank() const override { return communicator_->rank(); }
  void* allocate(std::size_t nbytes) override;

  void barrier() override;
  void broadcast(void* data, std::size_t count) override;
  void all_reduce(void* data, std::size_t count) override;
  void reduce(const void* input, void* output, std::size_t count) override;
  void reduce_scatter(const void* input, void* output, std::size_t count) override;
  void all_gather(const void* input, void* output, std::size_t count) override;
  void gather(const void* input, void* output, std::size_t count) override;
  void scatter(const void* input, void* output, std::size_t count) override;
  void all_to_all(const void* input, void* output, std::size_t count) override;
  void sendrecv(const void* input, void* output, std::size_t count) override;
  void gather_doubles(const double* mine, double* all, std::size_t count) override;

 private:
  std::shared_ptr<Communicator> communicator_;
  DType dtype_;
  ReduceOp op_;
  bool in_backend_;
  std::vector<BackendMemory> backend_memory_;
  std::vector<std::unique_ptr<std::byte, void (*)(std::byte*)>> user_memory_;
};

}  // namespace lockstep::bench
