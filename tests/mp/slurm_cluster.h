#pragma once
// A Slurm cluster of one machine: its three daemons in the foreground, with everything they own in one directory.

#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/core/io/file.h"
#include "lockstep/core/launch/process.h"
#include "tests/mp/lockstep_program.h"

namespace lockstep::mp {

/// Ready when made: a job can be started. Ends its daemons by their ids, and removes the directory, when it goes.
class SlurmCluster {
 public:
  /// Why no cluster can be started here; empty where one can.
  static std::string missing();

  /// Throws Error with the daemon's last words where one does not come up.
  SlurmCluster();
  ~SlurmCluster();
  SlurmCluster(const SlurmCluster&) = delete;
  SlurmCluster& operator=(const SlurmCluster&) = delete;

  /// What srun needs to find it.
  std::pair<std::string, std::string> variable() const { return {"SLURM_CONF", path("slurm.conf")}; }

 private:
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }
  void write_configuration();
  void start(const std::string& program, const std::vector<std::string>& arguments);
  void wait_until_ready();
  std::string last_words() const;

  Subreaper subreaper_;  // of what slurmd starts for each task
  io::TempDirectory directory_{"lockstep-slurm"};
  std::vector<launch::Child> daemons_;
};

}  // namespace lockstep::mp
