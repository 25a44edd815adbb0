#include "lockstep/core/base/environment.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

constexpr EnvironmentVariable kTable[] = {
    // Who a process is: torchrun's names, which `lockstep run` sets too.
    {"RANK", "int", "0", "this process among all of the job, from 0"},
    {"WORLD_SIZE", "int", "1", "number of processes of the job"},
    {"LOCAL_RANK", "int", "", "this process among those of its host, from 0"},
    {"LOCAL_WORLD_SIZE", "int", "", "number of processes on this host"},
    {"GROUP_RANK", "int", "0", "this host among those of the job, from 0"},
    {"GROUP_WORLD_SIZE", "int", "1", "number of hosts of the job"},
    {"ROLE_NAME", "string", "default", "what the workers are, as `lockstep run --role` says"},
    {"ROLE_RANK", "int", "0", "RANK again: all workers of a job have one role"},
    {"ROLE_WORLD_SIZE", "int", "1", "WORLD_SIZE again"},
    {"MASTER_ADDR", "string", "127.0.0.1", "host of rank 0; needed when the job spans hosts"},
    {"MASTER_PORT", "int", "29500", "port of the store on MASTER_ADDR"},
    {"TORCHELASTIC_RESTART_COUNT", "int", "0", "how often the workers have been restarted"},
    {"TORCHELASTIC_MAX_RESTARTS", "int", "0", "how often they may be restarted"},
    {"TORCHELASTIC_RUN_ID", "string", "", "name of the job"},
    {"TORCHELASTIC_USE_AGENT_STORE", "bool", "false", "true when the launcher itself listens on MASTER_PORT"},
    {"OMP_NUM_THREADS", "int", "the rank's share of the cores", "threads that compute in each rank"},
    {"PET_*", "string", "", "flags of `lockstep run`, as with torchrun: PET_NPROC_PER_NODE for --nproc-per-node"},
    // The same from other launchers.
    {"OMPI_COMM_WORLD_RANK", "int", "", "Open MPI: rank"},
    {"OMPI_COMM_WORLD_SIZE", "int", "", "Open MPI: world size"},
    {"OMPI_COMM_WORLD_LOCAL_RANK", "int", "", "Open MPI: local rank"},
    {"OMPI_COMM_WORLD_LOCAL_SIZE", "int", "", "Open MPI: processes on this host"},
    {"PMI_RANK", "int", "", "MPICH, PMI: rank"},
    {"PMI_SIZE", "int", "", "MPICH, PMI: world size"},
    {"MPI_LOCALRANKID", "int", "", "MPICH: local rank"},
    {"MPI_LOCALNRANKS", "int", "", "MPICH: processes on this host"},
    {"SLURM_STEP_ID", "int", "", "Slurm: set in tasks of srun only; the variables below count only when it is set"},
    {"SLURM_PROCID", "int", "", "Slurm: rank"},
    {"SLURM_NTASKS", "int", "", "Slurm: world size"},
    {"SLURM_LOCALID", "int", "", "Slurm: local rank"},
    {"SLURM_NTASKS_PER_NODE", "int", "", "Slurm: processes on each host"},
    {"SLURM_STEP_TASKS_PER_NODE", "string", "", "Slurm: processes on each host of the step, as in 4(x2),3"},
    {"SLURM_NODEID", "int", "", "Slurm: this host among those of the job"},
    {"SLURM_NNODES", "int", "", "Slurm: number of hosts"},
    {"SLURM_LAUNCH_NODE_IPADDR", "string", "", "Slurm: host of srun; stands in for MASTER_ADDR"},
    {"SLURM_JOB_ID", "string", "", "Slurm: name of the job"},
    // Ours.
    {"LOCKSTEP_STORE", "host:port", "", "a running store server, as `lockstep run` provides; then no rank hosts one"},
    {"LOCKSTEP_JOB_TOKEN", "string", "", "shared secret of the job's processes; the store answers nobody else"},
    {"LOCKSTEP_JOB_TOKEN_FILE", "path", "",
     "file with that secret, for its owner alone, where LOCKSTEP_JOB_TOKEN is unset"},
    {"LOCKSTEP_HOST_ID", "string", "",
     "ranks with the same value are taken to be on one host, whatever the kernel says"},
    {"LOCKSTEP_LOG", "string", "warning", "least severe lines to print: error warning info debug"},
    {"LOCKSTEP_TIMEOUT", "seconds", "300", "longest wait of one operation"},
    {"LOCKSTEP_INIT_TIMEOUT", "seconds", "300", "longest wait for all ranks to arrive at the start"},
    {"LOCKSTEP_BACKEND", "string", "auto", "what carries the bytes: auto or the name of a backend"},
    {"LOCKSTEP_NETWORK", "string", "auto", "what carries the bytes between hosts: auto gloo mpi"},
    {"LOCKSTEP_INTERFACE", "string", "", "network interface by name; unset: the one that routes to MASTER_ADDR"},
    {"LOCKSTEP_FLIGHT_DIR", "path", "", "where the recorder of last operations writes when one fails"},
    {"LOCKSTEP_AFFINITY", "string", "auto", "auto: each rank keeps to its share of the cores; none: leave as it is"},
    {"LOCKSTEP_WAIT", "string", "auto", "how a rank waits for its peers: auto spin yield sleep"},
    {"LOCKSTEP_MALLOC", "string", "auto", "auto: freed tensors stay with the process; default: as the C library does"},
    {"LOCKSTEP_MPI_MODULE", "path", "", "the mpi backend's module to load, instead of looking for one"},
    {"NO_COLOR", "string", "", "when set, output for people has no colours"},
    // The C library's: whoever sets one has chosen, and LOCKSTEP_MALLOC=auto leaves it at that.
    {"MALLOC_MMAP_THRESHOLD_", "int", "", "glibc: blocks of this many bytes or more get a mapping of their own"},
    {"MALLOC_MMAP_MAX_", "int", "", "glibc: number of such mappings"},
    {"MALLOC_TRIM_THRESHOLD_", "int", "", "glibc: free bytes at the heap's end that go back to the kernel"},
    {"MALLOC_TOP_PAD_", "int", "", "glibc: bytes by which the heap grows"},
    {"GLIBC_TUNABLES", "string", "", "glibc: tunables; those of glibc.malloc count here"},
};

[[noreturn]] void reject(std::string_view name, const std::string& value, const char* expected) {
  throw UsageError(base::cat("environment variable ", name, "='", value, "': expected ", expected));
}

template <typename Number>
std::optional<Number> parse_number(const std::string& text) {
  Number number{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc{} || stop != end) return std::nullopt;
  return number;
}

}  // namespace

std::span<const EnvironmentVariable> environment_table() { return kTable; }

std::optional<std::string> environment_string(std::string_view name) {
  LS_CHECK(std::ranges::any_of(kTable, [&](const EnvironmentVariable& row) { return row.name == name; }),
           "environment variable ", name, " is not in the table");
  const char* const value = std::getenv(std::string(name).c_str());
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

std::optional<std::int64_t> environment_int(std::string_view name) {
  const auto value = environment_string(name);
  if (!value) return std::nullopt;
  const auto number = parse_number<std::int64_t>(*value);
  if (!number) reject(name, *value, "a whole number");
  return number;
}

std::optional<double> environment_seconds(std::string_view name) {
  const auto value = environment_string(name);
  if (!value) return std::nullopt;
  const auto number = parse_number<double>(*value);
  constexpr double kLongest = 1e9;  // thirty years; keeps the sum with any clock in range
  if (!number || !(*number > 0) || *number > kLongest) reject(name, *value, "seconds, more than 0 and at most 1e9");
  return number;
}

std::optional<bool> environment_bool(std::string_view name) {
  const auto value = environment_string(name);
  if (!value) return std::nullopt;
  std::string lower = *value;
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  if (lower == "1" || lower == "true" || lower == "yes" || lower == "on") return true;
  if (lower == "0" || lower == "false" || lower == "no" || lower == "off") return false;
  reject(name, *value, "one of: 1 0 true false yes no on off");
}

}  // namespace lockstep
