// MPI in the loop of `lockstep bench`: built once with each MPI's own compiler wrapper, started by its mpirun.

#include <mpi.h>

#include <iostream>
#include <memory>
#include <vector>

#include <CLI/CLI.hpp>

#include "apps/lockstep/bench/limits.h"
#include "apps/lockstep/bench/report.h"
#include "apps/lockstep/bench/sweep.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/cpus.h"

namespace {

namespace bench = lockstep::bench;

class MpiEngine final : public bench::Engine {
 public:
  int rank() const override {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
  }
  static int world_size() {
    int size = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    return size;
  }

  void* allocate(std::size_t nbytes) override {
    constexpr std::align_val_t kPage{4096};
    memory_.emplace_back(static_cast<std::byte*>(::operator new(nbytes, kPage)),
                         [](std::byte* data) { ::operator delete(data, kPage); });
    return memory_.back().get();
  }

  void barrier() override { MPI_Barrier(MPI_COMM_WORLD); }
  void broadcast(void* data, std::size_t count) override {
    MPI_Bcast(data, static_cast<int>(count), MPI_FLOAT, 0, MPI_COMM_WORLD);
  }
  void all_reduce(void* data, std::size_t count) override {
    MPI_Allreduce(MPI_IN_PLACE, data, static_cast<int>(count), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  }
  void reduce(const void* input, void* output, std::size_t count) override {
    MPI_Reduce(input, output, static_cast<int>(count), MPI_FLOAT, MPI_SUM, 0, MPI_COMM_WORLD);
  }
  void reduce_scatter(const void* input, void* output, std::size_t count) override {
    MPI_Reduce_scatter_block(input, output, static_cast<int>(count), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  }
  void all_gather(const void* input, void* output, std::size_t count) override {
    const int elements = static_cast<int>(count);
    MPI_Allgather(input, elements, MPI_FLOAT, output, elements, MPI_FLOAT, MPI_COMM_WORLD);
  }
  void gather(const void* input, void* output, std::size_t count) override {
    const int elements = static_cast<int>(count);
    MPI_Gather(input, elements, MPI_FLOAT, output, elements, MPI_FLOAT, 0, MPI_COMM_WORLD);
  }
  void scatter(const void* input, void* output, std::size_t count) override {
    const int elements = static_cast<int>(count);
    MPI_Scatter(input, elements, MPI_FLOAT, output, elements, MPI_FLOAT, 0, MPI_COMM_WORLD);
  }
  void all_to_all(const void* input, void* output, std::size_t count) override {
    const int elements = static_cast<int>(count);
    MPI_Alltoall(input, elements, MPI_FLOAT, output, elements, MPI_FLOAT, MPI_COMM_WORLD);
  }
  void sendrecv(const void* input, void* output, std::size_t count) override {
    const int elements = static_cast<int>(count);
    const int ranks = world_size();
    const int next = (rank() + 1) % ranks;
    const int before = (rank() + ranks - 1) % ranks;
    MPI_Sendrecv(input, elements, MPI_FLOAT, next, 0, output, elements, MPI_FLOAT, before, 0, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
  }
  void gather_doubles(const double* mine, double* all, std::size_t count) override {
    const int elements = static_cast<int>(count);
    MPI_Allgather(mine, elements, MPI_DOUBLE, all, elements, MPI_DOUBLE, MPI_COMM_WORLD);
  }

 private:
  std::vector<std::unique_ptr<std::byte, void (*)(std::byte*)>> memory_;
};

struct Arguments {
  std::string operation = "all_reduce";
  std::string peer = "mpi";
  bench::SweepOptions sweep;
};

void run(Arguments& arguments) {
  arguments.sweep.op = bench::parse_op_kind(arguments.operation);
  arguments.sweep.world_size = MpiEngine::world_size();
  bench::validate(arguments.sweep);
  LS_REQUIRE(
      arguments.sweep.dtype == lockstep::DType::kFloat32 && arguments.sweep.reduce_op == lockstep::ReduceOp::kSum,
      "only --dtype f32 --op sum is measured here");
  MpiEngine engine;
  const std::vector<int> cpus = lockstep::base::read_cpu_budget().cpus;
  bench::pin_to_cpu(cpus[static_cast<std::size_t>(engine.rank()) % cpus.size()]);
  const bench::RowContext context{arguments.peer, "user", arguments.sweep};
  bench::run_sweep(engine, arguments.sweep, [&](const bench::SizeResult& result) {
    if (engine.rank() == 0) std::cout << to_json(context, result, std::nullopt) << std::endl;
  });
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("MPI in the loop of `lockstep bench` (f32, sum); one JSON object a line. Start it with mpirun.");
  app.add_option("operation", arguments.operation, bench::known_operations());
  app.add_option("--peer", arguments.peer, "its name in the results");
  bench::add_sweep_flags(app, arguments.sweep);
  CLI11_PARSE(app, argc, argv);
  MPI_Init(&argc, &argv);
  try {
    run(arguments);
  } catch (const std::exception& error) {
    std::cerr << "mpi_bench: " << error.what() << '\n';
    MPI_Abort(MPI_COMM_WORLD, 2);
  }
  return MPI_Finalize();
}
