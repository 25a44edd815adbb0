// The forms of the operations: each fills in a Collective or a Message and takes the one walk (communicator.cpp).

#include <numeric>
#include <utility>

#include "lockstep/core/base/check.h"
#include "lockstep/core/comm/communicator.h"
#include "lockstep/core/comm/recorder.h"

namespace lockstep {
namespace {

Collective make(OpKind kind, const void* input, void* output, std::size_t count, DType dtype) {
  Collective collective;
  collective.kind = kind;
  collective.input = input;
  collective.output = output;
  collective.count = count;
  collective.dtype = dtype;
  return collective;
}

Collective&& with(Collective&& collective, Reduction reduction) {
  collective.op = reduction.op;
  collective.factor = reduction.factor;
  return std::move(collective);
}

Collective&& with_root(Collective&& collective, int root) {
  collective.root = root;
  return std::move(collective);
}

Collective make_barrier() { return make(OpKind::kBarrier, nullptr, nullptr, 0, DType::kUInt8); }

/// The unequal form: `counts` of every rank, and their sum.
Collective unequal(Collective collective, Counts counts, const Communicator& communicator) {
  LS_REQUIRE(counts.size() == static_cast<std::size_t>(communicator.world_size()), "rank ", communicator.rank(), "/",
             communicator.world_size(), " group ", communicator.name(), ": ", name_of(collective.kind), " was given ",
             counts.size(), " counts; expected one for each rank");
  collective.counts = counts;
  collective.count = std::accumulate(counts.begin(), counts.end(), std::size_t{0});
  return collective;
}

Collective receiving(Collective collective, Counts counts, const Communicator& communicator) {
  collective.recv_counts = unequal(collective, counts, communicator).counts;
  return collective;
}

Message make_message(OpKind kind, void* buffer, std::size_t count, DType dtype, int peer) {
  Message message;
  message.kind = kind;
  message.buffer = buffer;
  message.count = count;
  message.dtype = dtype;
  message.peer = peer;
  return message;
}

}  // namespace

// ---- blocking ----

void Communicator::barrier(const OpOptions& options) { run(make_barrier(), options); }

void Communicator::broadcast(void* data, std::size_t count, DType dtype, int root, const OpOptions& options) {
  run(with_root(make(OpKind::kBroadcast, nullptr, data, count, dtype), root), options);
}

void Communicator::all_reduce(const void* input, void* output, std::size_t count, DType dtype, Reduction op,
                              const OpOptions& options) {
  run(with(make(OpKind::kAllReduce, input, output, count, dtype), op), options);
}

void Communicator::reduce(const void* input, void* output, std::size_t count, DType dtype, int root, Reduction op,
                          const OpOptions& options) {
  run(with_root(with(make(OpKind::kReduce, input, output, count, dtype), op), root), options);
}

void Communicator::reduce_scatter(const void* input, void* output, std::size_t count, DType dtype, Reduction op,
                                  const OpOptions& options) {
  run(with(make(OpKind::kReduceScatter, input, output, count, dtype), op), options);
}

void Communicator::reduce_scatter(const void* input, void* output, Counts counts, DType dtype, Reduction op,
                                  const OpOptions& options) {
  run(with(unequal(make(OpKind::kReduceScatter, input, output, 0, dtype), counts, *this), op), options);
}

void Communicator::all_gather(const void* input, void* output, std::size_t count, DType dtype,
                              const OpOptions& options) {
  run(make(OpKind::kAllGather, input, output, count, dtype), options);
}

void Communicator::all_gather(const void* input, void* output, Counts counts, DType dtype, const OpOptions& options) {
  run(unequal(make(OpKind::kAllGather, input, output, 0, dtype), counts, *this), options);
}

void Communicator::gather(const void* input, void* output, std::size_t count, DType dtype, int root,
                          const OpOptions& options) {
  run(with_root(make(OpKind::kGather, input, output, count, dtype), root), options);
}

void Communicator::scatter(const void* input, void* output, std::size_t count, DType dtype, int root,
                           const OpOptions& options) {
  run(with_root(make(OpKind::kScatter, input, output, count, dtype), root), options);
}

void Communicator::all_to_all(const void* input, void* output, std::size_t count, DType dtype,
                              const OpOptions& options) {
  run(make(OpKind::kAllToAll, input, output, count, dtype), options);
}

void Communicator::all_to_all(const void* input, Counts send_counts, void* output, Counts recv_counts, DType dtype,
                              const OpOptions& options) {
  run(receiving(unequal(make(OpKind::kAllToAll, input, output, 0, dtype), send_counts, *this), recv_counts, *this),
      options);
}

void Communicator::send(const void* data, std::size_t count, DType dtype, int peer, int tag, const OpOptions& options) {
  send_async(data, count, dtype, peer, tag, options).wait();
}

int Communicator::recv(void* data, std::size_t count, DType dtype, int source, int tag, const OpOptions& options) {
  Work work = recv_async(data, count, dtype, source, tag, options);
  work.wait();
  return work.peer();
}

void Communicator::broadcast_coalesced(std::span<const BufferPair> buffers, DType dtype, int root,
                                       const OpOptions& options) {
  coalesced(with_root(make(OpKind::kBroadcast, nullptr, nullptr, 0, dtype), root), buffers, options).wait();
}

void Communicator::all_reduce_coalesced(std::span<const BufferPair> buffers, DType dtype, Reduction op,
                                        const OpOptions& options) {
  coalesced(with(make(OpKind::kAllReduce, nullptr, nullptr, 0, dtype), op), buffers, options).wait();
}

void Communicator::reduce_scatter_coalesced(std::span<const BufferPair> buffers, DType dtype, Reduction op,
                                            const OpOptions& options) {
  coalesced(with(make(OpKind::kReduceScatter, nullptr, nullptr, 0, dtype), op), buffers, options).wait();
}

void Communicator::all_gather_coalesced(std::span<const BufferPair> buffers, DType dtype, const OpOptions& options) {
  coalesced(make(OpKind::kAllGather, nullptr, nullptr, 0, dtype), buffers, options).wait();
}

// ---- started, not waited for ----

Work Communicator::barrier_async(const OpOptions& options) { return run_async(make_barrier(), options); }

Work Communicator::broadcast_async(void* data, std::size_t count, DType dtype, int root, const OpOptions& options) {
  return run_async(with_root(make(OpKind::kBroadcast, nullptr, data, count, dtype), root), options);
}

Work Communicator::all_reduce_async(const void* input, void* output, std::size_t count, DType dtype, Reduction op,
                                    const OpOptions& options) {
  return run_async(with(make(OpKind::kAllReduce, input, output, count, dtype), op), options);
}

Work Communicator::reduce_async(const void* input, void* output, std::size_t count, DType dtype, int root, Reduction op,
                                const OpOptions& options) {
  return run_async(with_root(with(make(OpKind::kReduce, input, output, count, dtype), op), root), options);
}

Work Communicator::reduce_scatter_async(const void* input, void* output, std::size_t count, DType dtype, Reduction op,
                                        const OpOptions& options) {
  return run_async(with(make(OpKind::kReduceScatter, input, output, count, dtype), op), options);
}

Work Communicator::reduce_scatter_async(const void* input, void* output, Counts counts, DType dtype, Reduction op,
                                        const OpOptions& options) {
  return run_async(with(unequal(make(OpKind::kReduceScatter, input, output, 0, dtype), counts, *this), op), options);
}

Work Communicator::all_gather_async(const void* input, void* output, std::size_t count, DType dtype,
                                    const OpOptions& options) {
  return run_async(make(OpKind::kAllGather, input, output, count, dtype), options);
}

Work Communicator::all_gather_async(const void* input, void* output, Counts counts, DType dtype,
                                    const OpOptions& options) {
  return run_async(unequal(make(OpKind::kAllGather, input, output, 0, dtype), counts, *this), options);
}

Work Communicator::gather_async(const void* input, void* output, std::size_t count, DType dtype, int root,
                                const OpOptions& options) {
  return run_async(with_root(make(OpKind::kGather, input, output, count, dtype), root), options);
}

Work Communicator::scatter_async(const void* input, void* output, std::size_t count, DType dtype, int root,
                                 const OpOptions& options) {
  return run_async(with_root(make(OpKind::kScatter, input, output, count, dtype), root), options);
}

Work Communicator::all_to_all_async(const void* input, void* output, std::size_t count, DType dtype,
                                    const OpOptions& options) {
  return run_async(make(OpKind::kAllToAll, input, output, count, dtype), options);
}

Work Communicator::all_to_all_async(const void* input, Counts send_counts, void* output, Counts recv_counts,
                                    DType dtype, const OpOptions& options) {
  return run_async(
      receiving(unequal(make(OpKind::kAllToAll, input, output, 0, dtype), send_counts, *this), recv_counts, *this),
      options);
}

Work Communicator::send_async(const void* data, std::size_t count, DType dtype, int peer, int tag,
                              const OpOptions& options) {
  // A send only reads its buffer; Message has one pointer for both directions.
  Message message = make_message(OpKind::kSend, const_cast<void*>(data), count, dtype, peer);
  message.tag = tag;
  const Deadline deadline = begin(message, options);
  return Work(shared_from_this(), message, deadline);
}

Work Communicator::recv_async(void* data, std::size_t count, DType dtype, int source, int tag,
                              const OpOptions& options) {
  Message message = make_message(OpKind::kRecv, data, count, dtype, source);
  message.tag = tag;
  const Deadline deadline = begin(message, options);
  return Work(shared_from_this(), message, deadline);
}

Work Communicator::broadcast_coalesced_async(std::span<const BufferPair> buffers, DType dtype, int root,
                                             const OpOptions& options) {
  return coalesced(with_root(make(OpKind::kBroadcast, nullptr, nullptr, 0, dtype), root), buffers, options);
}

Work Communicator::all_reduce_coalesced_async(std::span<const BufferPair> buffers, DType dtype, Reduction op,
                                              const OpOptions& options) {
  return coalesced(with(make(OpKind::kAllReduce, nullptr, nullptr, 0, dtype), op), buffers, options);
}

Work Communicator::reduce_scatter_coalesced_async(std::span<const BufferPair> buffers, DType dtype, Reduction op,
                                                  const OpOptions& options) {
  return coalesced(with(make(OpKind::kReduceScatter, nullptr, nullptr, 0, dtype), op), buffers, options);
}

Work Communicator::all_gather_coalesced_async(std::span<const BufferPair> buffers, DType dtype,
                                              const OpOptions& options) {
  return coalesced(make(OpKind::kAllGather, nullptr, nullptr, 0, dtype), buffers, options);
}

}  // namespace lockstep
