#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/base/dtype.h"

namespace CLI {
class App;
}

namespace lockstep::bench {

/// What one sweep over message sizes measures; the same for Lockstep and for the peers that it is compared with.
///
/// `bytes` of a size is the whole vector, as in nccl-tests: the buffer of all_reduce, reduce, broadcast and sendrecv;
/// the input of reduce_scatter, all_to_all and scatter (the root's); the output of all_gather and gather (the root's).
struct SweepOptions {
  OpKind op = OpKind::kAllReduce;  ///< kSend is sendrecv: each rank sends to the next and receives from the one before
  int world_size = 2;
  std::size_t min_bytes = 4;
  std::size_t max_bytes = std::size_t{256} << 20;
  int step_factor = 4;
  DType dtype = DType::kFloat32;
  ReduceOp reduce_op = ReduceOp::kSum;
  bool fresh = true;              ///< each rank rewrites its data and passes a barrier before every timed call
  double seconds_per_size = 0.4;  ///< aimed at; the smallest number of samples is kept whatever it takes
  bool json = false;
};

/// Adds the flags of a sweep (--nproc --min-bytes --max-bytes --step-factor --dtype --op --fresh --json ...) to `app`;
/// a value that does not parse is a CLI::ValidationError that lists what does.
void add_sweep_flags(CLI::App& app, SweepOptions& options);

/// all_reduce reduce reduce_scatter all_gather gather scatter broadcast all_to_all barrier sendrecv. Throws UsageError
/// that lists them.
OpKind parse_op_kind(std::string_view name);
/// The inverse: name_of(op), but sendrecv for kSend.
std::string_view bench_name(OpKind op) noexcept;
/// "all_reduce, reduce, ...": what parse_op_kind knows.
std::string known_operations();
/// "4", "64K", "256M", "1G" (powers of 1024; KiB, MiB and GiB are accepted as well). Throws UsageError.
std::size_t parse_bytes(std::string_view text);
/// "4", "64 KiB", "256 MiB": the inverse for people.
std::string format_bytes(std::size_t bytes);

/// What no single flag can say: min above max, a reduction that the dtype does not have. Throws UsageError.
void validate(const SweepOptions& options);

}  // namespace lockstep::bench
