// Gloo (its TCP transport, as PyTorch uses it on CPUs) in the loop of `lockstep bench`. Where a launcher started it as
// one of several ranks (RANK, WORLD_SIZE ...), it is one of them; else it starts them here.

#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <iostream>
#include <memory>
#include <vector>

#include <CLI/CLI.hpp>
#include <gloo/allgather.h>
#include <gloo/allreduce.h>
#include <gloo/allreduce_halving_doubling.h>
#include <gloo/alltoall.h>
#include <gloo/barrier.h>
#include <gloo/broadcast.h>
#include <gloo/gather.h>
#include <gloo/math.h>
#include <gloo/reduce.h>
#include <gloo/reduce_scatter.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/scatter.h>
#include <gloo/transport/tcp/device.h>

#include "apps/lockstep/bench/limits.h"
#include "apps/lockstep/bench/report.h"
#include "apps/lockstep/bench/sweep.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/cpus.h"
#include "lockstep/core/base/environment.h"

namespace {

namespace bench = lockstep::bench;

constexpr auto kTimeout = std::chrono::seconds(120);

struct Arguments {
  std::string operation = "all_reduce";
  std::string algorithm = "ring";
  bool pin = false;  // Its ranks have threads of their own, which pinning would put on one core.
  std::string meet;  // The directory in which the ranks meet.
  std::string address = "127.0.0.1";
  bench::SweepOptions sweep;
};

class GlooEngine final : public bench::Engine {
 public:
  GlooEngine(int rank, const Arguments& arguments)
      : algorithm_(arguments.algorithm == "bcube" ? gloo::AllreduceOptions::Algorithm::BCUBE
                                                  : gloo::AllreduceOptions::Algorithm::RING),
        halving_doubling_(arguments.algorithm == "halving_doubling"),
        context_(std::make_shared<gloo::rendezvous::Context>(rank, arguments.sweep.world_size)) {
    gloo::transport::tcp::attr address;
    address.hostname = arguments.address;
    auto device = gloo::transport::tcp::CreateDevice(address);
    gloo::rendezvous::FileStore store(arguments.meet);
    context_->setTimeout(kTimeout);
    context_->connectFullMesh(store, device);
  }

  int rank() const override { return context_->rank; }

  void* allocate(std::size_t nbytes) override {
    constexpr std::align_val_t kPage{4096};
    memory_.emplace_back(static_cast<std::byte*>(::operator new(nbytes, kPage)),
                         [](std::byte* data) { ::operator delete(data, kPage); });
    return memory_.back().get();
  }

  void barrier() override {
    gloo::BarrierOptions options(context_);
    options.setTag(tag_++);
    gloo::barrier(options);
  }
  void broadcast(void* data, std::size_t count) override {
    gloo::BroadcastOptions options(context_);
    options.setRoot(0);
    options.setOutput(static_cast<float*>(data), count);
    options.setTag(tag_++);
    gloo::broadcast(options);
  }
  void all_reduce(void* data, std::size_t count) override {
    if (halving_doubling_) return halve_and_double(static_cast<float*>(data), count);
    gloo::AllreduceOptions options(context_);
    options.setAlgorithm(algorithm_);
    options.setOutput(static_cast<float*>(data), count);
    options.setReduceFunction(add);
    options.setTag(tag_++);
    gloo::allreduce(options);
  }
  void reduce(const void* input, void* output, std::size_t count) override {
    gloo::ReduceOptions options(context_);
    options.setInput(floats(input), count);
    options.setOutput(static_cast<float*>(output), count);
    options.setReduceFunction(add);
    options.setRoot(0);
    options.setTag(tag_++);
    gloo::reduce(options);
  }
  /// Gloo has it only as a class that works in place on its input, for one fixed buffer.
  void reduce_scatter(const void* input, void* output, std::size_t count) override {
    float* const data = floats(input);
    const int ranks = context_->size;
    if (!scatter_ || scatter_count_ != count) {
      scatter_count_ = count;
      scatter_ = std::make_unique<gloo::ReduceScatterHalvingDoubling<float>>(
          context_, std::vector<float*>{data}, static_cast<int>(count) * ranks,
          std::vector<int>(static_cast<std::size_t>(ranks), static_cast<int>(count)));
    }
    scatter_->run();
    std::memcpy(output, data, count * sizeof(float));
  }
  void all_gather(const void* input, void* output, std::size_t count) override {
    gather_everywhere(static_cast<const float*>(input), static_cast<float*>(output), count);
  }
  void gather(const void* input, void* output, std::size_t count) override {
    gloo::GatherOptions options(context_);
    options.setInput(floats(input), count);
    if (rank() == 0) options.setOutput(static_cast<float*>(output), count * ranks());
    options.setRoot(0);
    options.setTag(tag_++);
    gloo::gather(options);
  }
  void scatter(const void* input, void* output, std::size_t count) override {
    gloo::ScatterOptions options(context_);
    if (rank() == 0) {
      std::vector<float*> chunks;
      for (std::size_t peer = 0; peer < ranks(); ++peer) chunks.push_back(floats(input) + peer * count);
      options.setInputs(chunks, count);
    }
    options.setOutput(static_cast<float*>(output), count);
    options.setRoot(0);
    options.setTag(tag_++);
    gloo::scatter(options);
  }
  void all_to_all(const void* input, void* output, std::size_t count) override {
    gloo::AlltoallOptions options(context_);
    options.setInput(floats(input), count * ranks());
    options.setOutput(static_cast<float*>(output), count * ranks());
    options.setTag(tag_++);
    gloo::alltoall(options);
  }
  void sendrecv(const void* input, void* output, std::size_t count) override {
    const auto sent = context_->createUnboundBuffer(floats(input), count * sizeof(float));
    const auto received = context_->createUnboundBuffer(output, count * sizeof(float));
    const std::uint64_t slot = tag_++;
    received->recv((rank() + context_->size - 1) % context_->size, slot);
    sent->send((rank() + 1) % context_->size, slot);
    received->waitRecv(kTimeout);
    sent->waitSend(kTimeout);
  }
  void gather_doubles(const double* mine, double* all, std::size_t count) override {
    gather_everywhere(mine, all, count);
  }

 private:
  static void add(void* out, const void* a, const void* b, std::size_t n) { gloo::sum<float>(out, a, b, n); }
  /// Gloo takes inputs as what it could write to.
  static float* floats(const void* input) { return const_cast<float*>(static_cast<const float*>(input)); }
  std::size_t ranks() const { return static_cast<std::size_t>(context_->size); }

  /// A class as well, made for one buffer.
  void halve_and_double(float* data, std::size_t count) {
    if (!doubling_ || doubling_count_ != count) {
      doubling_count_ = count;
      doubling_ = std::make_unique<gloo::AllreduceHalvingDoubling<float>>(context_, std::vector<float*>{data},
                                                                          static_cast<int>(count));
    }
    doubling_->run();
  }

  template <typename T>
  void gather_everywhere(const T* input, T* output, std::size_t count) {
    gloo::AllgatherOptions options(context_);
    options.setInput(const_cast<T*>(input), count);
    options.setOutput(output, count * static_cast<std::size_t>(context_->size));
    options.setTag(tag_++);
    gloo::allgather(options);
  }

  gloo::AllreduceOptions::Algorithm algorithm_;
  bool halving_doubling_;
  std::shared_ptr<gloo::rendezvous::Context> context_;
  std::uint32_t tag_ = 0;
  std::unique_ptr<gloo::ReduceScatterHalvingDoubling<float>> scatter_;
  std::size_t scatter_count_ = 0;
  std::unique_ptr<gloo::AllreduceHalvingDoubling<float>> doubling_;
  std::size_t doubling_count_ = 0;
  std::vector<std::unique_ptr<std::byte, void (*)(std::byte*)>> memory_;
};

int run_rank(const Arguments& arguments, int rank) {
  try {
    const std::vector<int> cpus = lockstep::base::read_cpu_budget().cpus;
    if (arguments.pin) bench::pin_to_cpu(cpus[static_cast<std::size_t>(rank) % cpus.size()]);
    GlooEngine engine(rank, arguments);
    const bench::RowContext context{"gloo_" + arguments.algorithm, "user", arguments.sweep};
    bench::run_sweep(engine, arguments.sweep, [&](const bench::SizeResult& result) {
      if (rank == 0) std::cout << to_json(context, result, std::nullopt) << std::endl;
    });
    engine.barrier();
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "gloo_bench: rank " << rank << ": " << error.what() << '\n';
    return 1;
  }
}

/// A private directory in which the ranks meet; removed with its contents.
class MeetingPlace {
 public:
  MeetingPlace() {
    std::string path = (std::filesystem::temp_directory_path() / "gloo_bench_XXXXXX").string();
    if (::mkdtemp(path.data()) == nullptr) throw lockstep::SystemError("creating " + path, errno);
    path_ = path;
  }
  ~MeetingPlace() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  MeetingPlace(const MeetingPlace&) = delete;
  MeetingPlace& operator=(const MeetingPlace&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

int run_all(Arguments arguments) {
  const MeetingPlace place;
  arguments.meet = place.path();
  std::vector<pid_t> workers;
  for (int rank = 0; rank < arguments.sweep.world_size; ++rank) {
    const pid_t pid = LS_SYSCALL(::fork(), "starting rank ", rank);
    if (pid == 0) ::_exit(run_rank(arguments, rank));
    workers.push_back(pid);
  }
  int exit_code = 0;
  for (const pid_t pid : workers) {
    int status = 0;
    LS_SYSCALL(::waitpid(pid, &status, 0), "waiting for process ", pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) exit_code = 1;
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Gloo in the loop of `lockstep bench` (f32, sum); one JSON object a line");
  app.add_option("operation", arguments.operation, bench::known_operations());
  app.add_option("--algorithm", arguments.algorithm, "of all_reduce")
      ->check(CLI::IsMember({"ring", "bcube", "halving_doubling"}));
  app.add_option("--meet", arguments.meet, "with a launcher: an empty directory that all ranks see");
  app.add_option("--address", arguments.address, "with a launcher: of this host, where the others reach it");
  app.add_flag("--pin", arguments.pin, "pin each rank, with its threads, to one CPU");
  bench::add_sweep_flags(app, arguments.sweep);
  CLI11_PARSE(app, argc, argv);
  try {
    arguments.sweep.op = bench::parse_op_kind(arguments.operation);
    bench::validate(arguments.sweep);
    LS_REQUIRE(
        arguments.sweep.dtype == lockstep::DType::kFloat32 && arguments.sweep.reduce_op == lockstep::ReduceOp::kSum,
        "only --dtype f32 --op sum is measured here");
    const lockstep::RankEnvironment self = lockstep::read_rank_environment();
    if (self.world_size == 1) return run_all(arguments);
    LS_REQUIRE(!arguments.meet.empty(), "with a launcher the ranks need --meet DIRECTORY");
    arguments.sweep.world_size = self.world_size;
    return run_rank(arguments, self.rank);
  } catch (const std::exception& error) {
    std::cerr << "gloo_bench: " << error.what() << '\n';
    return 2;
  }
}
