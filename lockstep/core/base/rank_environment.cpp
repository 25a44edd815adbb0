// Which launcher's variables say who this process is.
//
// A set counts when its rank or its size is set; the first one that counts is used alone, so that `mpirun` inside a
// Slurm allocation, or `lockstep run` inside either, means what its user typed last.
//
// Slurm needs one more look: a batch script (sbatch) sees SLURM_PROCID=0 and the job's SLURM_NTASKS although nothing
// has started the other tasks, and a program that it starts without srun is a world of one. srun alone sets
// SLURM_STEP_ID, in every task, so without it Slurm's variables do not count.

#include <charconv>
#include <limits>
#include <optional>
#include <string_view>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/token_file.h"

namespace lockstep {
namespace {

constexpr int kDefaultPort = 29500;

/// The names under which one launcher says who a process is; an empty name means that it has none.
struct Names {
  std::string_view source;
  std::string_view rank;
  std::string_view world_size;
  std::string_view local_rank;
  std::string_view local_world_size;
  std::string_view node_rank;
};

constexpr Names kLaunchers[] = {
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"},
    // OMPI_COMM_WORLD_NODE_RANK is no host's number: it counts the processes of all jobs on one host.
    {"openmpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE", ""},
    {"mpich", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", ""},
    {"slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE", "SLURM_NODEID"},
};

/// A whole number from `least` to `most`, or nothing when unset.
std::optional<int> read_bounded(std::string_view name, int least, int most) {
  if (name.empty()) return std::nullopt;
  const auto value = environment_int(name);
  if (!value) return std::nullopt;
  LS_REQUIRE(*value >= least && *value <= most, "environment variable ", name, "=", *value, ": expected ", least,
             most == std::numeric_limits<int>::max() ? base::cat(" or more") : base::cat(" to ", most));
  return static_cast<int>(*value);
}

std::optional<int> read_count(std::string_view name, int least) {
  return read_bounded(name, least, std::numeric_limits<int>::max());
}

const Names* find_launcher() {
  for (const Names& names : kLaunchers) {
    if (!environment_string(names.rank) && !environment_string(names.world_size)) continue;
    if (names.source == "slurm" && !environment_string("SLURM_STEP_ID")) continue;
    return &names;
  }
  return nullptr;
}

void read_rank_and_size(const Names& names, RankEnvironment& env) {
  const auto rank = read_count(names.rank, 0);
  const auto world_size = read_count(names.world_size, 1);
  LS_REQUIRE(rank, "environment variable ", names.world_size, "=", world_size.value_or(0), " is set without ",
             names.rank, "; set both or neither");
  LS_REQUIRE(world_size, "environment variable ", names.rank, "=", *rank, " is set without ", names.world_size,
             "; set both or neither");
  LS_REQUIRE(*rank < *world_size, "environment variables ", names.rank, "=", *rank, " and ", names.world_size, "=",
             *world_size, " contradict each other: expected a rank from 0 to ", *world_size - 1);
  env.rank = *rank;
  env.world_size = *world_size;
}

bool is_loopback(const std::string& address) {
  return address == "localhost" || address == "::1" || address.starts_with("127.");
}

/// The tasks on host `node` in Slurm's notation: "4(x2),3" is four, four and three. Nothing where it does not parse.
std::optional<int> slurm_tasks_on(std::string_view text, int node) {
  const auto number = [&text]() -> std::optional<int> {
    int value = 0;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || value < 1) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(stop - text.data()));
    return value;
  };
  while (!text.empty()) {
    const auto tasks = number();
    if (!tasks) return std::nullopt;
    int hosts = 1;
    if (text.starts_with("(x")) {
      text.remove_prefix(2);
      const auto repeat = number();
      if (!repeat || !text.starts_with(')')) return std::nullopt;
      text.remove_prefix(1);
      hosts = *repeat;
    }
    if (node < hosts) return tasks;
    node -= hosts;
    if (!text.empty() && text.front() != ',') return std::nullopt;
    if (!text.empty()) text.remove_prefix(1);
  }
  return std::nullopt;
}

/// The tasks of this step on this host, from the most exact variable that is there.
std::optional<int> slurm_local_world_size(int world_size) {
  const auto node = read_count("SLURM_NODEID", 0);
  if (const auto text = environment_string("SLURM_STEP_TASKS_PER_NODE"); text && node) {
    const auto tasks = slurm_tasks_on(*text, *node);
    LS_REQUIRE(tasks, "environment variable SLURM_STEP_TASKS_PER_NODE='", *text,
               "': expected counts as in '4(x2),3', with one for SLURM_NODEID=", *node);
    return tasks;
  }
  if (world_size == 1 || read_count("SLURM_NNODES", 1) == 1) return world_size;
  return read_count("SLURM_NTASKS_PER_NODE", 1);
}

/// Where nobody says how the ranks are spread, ranks that meet on the loopback interface share a host, and others are
/// taken to be alone on theirs: right for any spread, if slower than need be.
void read_local(const Names& names, RankEnvironment& env) {
  const bool slurm = names.source == "slurm" ||
                     (names.source == "mpich" && !environment_string("MPI_LOCALRANKID") &&
                      environment_string("SLURM_STEP_ID"));  // srun --mpi=pmi2 sets PMI_RANK and PMI_SIZE only
  auto local_rank = read_count(slurm ? "SLURM_LOCALID" : names.local_rank, 0);
  auto local_world_size = slurm ? slurm_local_world_size(env.world_size) : read_count(names.local_world_size, 1);
  if (!local_rank && (slurm || !local_world_size)) {
    const bool one_host = names.source == "torchrun" && (env.master_address.empty() || is_loopback(env.master_address));
    local_rank = one_host ? env.rank : 0;
    local_world_size = one_host ? env.world_size : 1;
    env.local_is_given = env.world_size == 1;
  }
  LS_REQUIRE(local_rank, "environment variable ", names.local_world_size, "=", local_world_size.value_or(0),
             " is set without ", names.local_rank, "; set both or neither");
  LS_REQUIRE(local_world_size, "environment variable ", names.local_rank, "=", *local_rank, " is set without ",
             names.local_world_size, "; set both or neither");
  LS_REQUIRE(*local_world_size <= env.world_size, "environment variable ", names.local_world_size, "=",
             *local_world_size, ": expected at most ", names.world_size, "=", env.world_size);
  LS_REQUIRE(*local_rank < *local_world_size, "environment variables ", names.local_rank, "=", *local_rank, " and ",
             names.local_world_size, "=", *local_world_size, " contradict each other: expected a local rank from 0 to ",
             *local_world_size - 1);
  LS_REQUIRE(*local_rank <= env.rank, "environment variables ", names.local_rank, "=", *local_rank, " and ", names.rank,
             "=", env.rank, " contradict each other: expected a local rank of at most ", env.rank);
  env.local_rank = *local_rank;
  env.local_world_size = *local_world_size;
  // Launchers without a number for the host fill one host after another.
  env.node_rank = read_count(names.node_rank, 0).value_or(env.rank / env.local_world_size);
}

void read_master(const Names& names, RankEnvironment& env) {
  const bool one_host = env.local_world_size == env.world_size;
  if (env.master_address.empty() && !one_host && names.source == "slurm") {
    env.master_address = environment_string("SLURM_LAUNCH_NODE_IPADDR").value_or("");
  }
  if (env.master_address.empty() && one_host && env.world_size > 1) env.master_address = "127.0.0.1";
  if (!env.master_address.empty() && env.master_port == 0) env.master_port = kDefaultPort;
}

}  // namespace

std::optional<std::string> read_job_token() {
  if (auto token = environment_string("LOCKSTEP_JOB_TOKEN")) return token;
  if (const auto file = environment_string("LOCKSTEP_JOB_TOKEN_FILE")) return base::read_token_file(*file);
  return std::nullopt;
}

RankEnvironment read_rank_environment() {
  RankEnvironment env;
  env.master_address = environment_string("MASTER_ADDR").value_or("");
  env.master_port = read_bounded("MASTER_PORT", 1, 65535).value_or(0);
  env.job_token = read_job_token().value_or("");
  env.run_id = environment_string("TORCHELASTIC_RUN_ID").value_or("");
  env.restart_count = read_count("TORCHELASTIC_RESTART_COUNT", 0).value_or(0);
  env.source = "none";
  const Names* const names = find_launcher();
  if (names == nullptr) return env;
  env.source = names->source == "torchrun" && environment_string("LOCKSTEP_STORE") ? "lockstep" : names->source;
  if (names->source == "slurm" && env.run_id.empty()) env.run_id = environment_string("SLURM_JOB_ID").value_or("");
  read_rank_and_size(*names, env);
  read_local(*names, env);
  read_master(*names, env);
  return env;
}

}  // namespace lockstep
