#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace lockstep {

/// One environment variable that Lockstep reads. All are in environment_table(), which `lockstep help env` prints.
struct EnvironmentVariable {
  std::string_view name;
  std::string_view type;           ///< string, int, seconds, bool, path, host:port
  std::string_view default_value;  ///< as text, for people
  std::string_view meaning;
};

/// Every variable that Lockstep reads or sets, ours and the launchers'. Static, immutable.
std::span<const EnvironmentVariable> environment_table();

/// The value of `name`, which must be in the table (InternalError otherwise); nothing when unset or empty.
std::optional<std::string> environment_string(std::string_view name);
/// Typed reads. A value that does not parse is a UsageError that names the variable, the value and what was expected.
std::optional<std::int64_t> environment_int(std::string_view name);
std::optional<double> environment_seconds(std::string_view name);
std::optional<bool> environment_bool(std::string_view name);

/// Who this process is in its job, as the launcher says.
struct RankEnvironment {
  int rank = 0;
  int world_size = 1;
  int local_rank = 0;
  int local_world_size = 1;
  int node_rank = 0;
  bool local_is_given = true;  ///< false: no launcher said how the ranks are spread, so the three above are a guess
  std::string master_address;  ///< empty when no launcher gave one
  int master_port = 0;         ///< 0 when no launcher gave one
  std::string job_token;       ///< shared secret of the job; may be empty
  std::string run_id;          ///< names the job; may be empty
  int restart_count = 0;
  std::string source;  ///< which launcher's variables were used: lockstep, torchrun, openmpi, mpich, slurm, none
};

/// Reads RANK, WORLD_SIZE ... (torchrun's names); else Open MPI's, MPICH/PMI's, Slurm's own variables; else a world
/// of one.
///
/// MASTER_ADDR and MASTER_PORT count with any launcher. Without them, ranks of one host get 127.0.0.1 and port 29500,
/// and Slurm's tasks on several hosts get the host of srun. Slurm's variables count only in tasks that srun started: a
/// program that an sbatch script runs directly is a world of one.
///
/// RANK and WORLD_SIZE alone, as operators of Kubernetes set them, do not say which ranks share a host: ranks that meet
/// on the loopback interface are taken to share one, others to be alone on theirs. init_from_environment() does better.
///
/// Throws UsageError where a set is incomplete (RANK without WORLD_SIZE), a number does not parse, or rank and world
/// size contradict each other; the text names the variable, its value and what was expected.
RankEnvironment read_rank_environment();

/// The job's secret: LOCKSTEP_JOB_TOKEN, else the content of LOCKSTEP_JOB_TOKEN_FILE, else nothing. Throws UsageError
/// where that file can't be opened, is not its owner's alone or holds no secret.
std::optional<std::string> read_job_token();

}  // namespace lockstep
