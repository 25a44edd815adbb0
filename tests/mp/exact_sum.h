#pragma once
// A job whose ranks add up what only they know, for the launchers that people have.

#include <unistd.h>

#include <algorithm>
#include <initializer_list>
#include <set>
#include <string>
#include <vector>

#include "lockstep/core/base/error.h"
#include "lockstep/core/io/socket.h"
#include "lockstep/core/launch/process.h"
#include "tests/mp/lockstep_program.h"
#include "tests/support/free_port.h"

namespace lockstep::mp {

/// The worker "exact_sum" joins its job by its environment, adds over all ranks, compares with ==, and prints one line:
/// "LAUNCHER rank R/W local L/LW node N".
inline Arguments exact_sum_command() { return support::worker_command("exact_sum"); }

/// The lines of a world on one host, all of it well.
inline std::set<std::string> lines_on_one_host(const std::string& launcher, int world_size) {
  std::set<std::string> out;
  for (int rank = 0; rank < world_size; ++rank) {
    const std::string who = std::to_string(rank) + "/" + std::to_string(world_size);
    out.insert(launcher + " rank " + who + " local " + who + " node 0");
  }
  return out;
}

/// A program's path, or nothing where it is not installed.
inline std::string find_installed(const std::string& program) {
  try {
    return launch::find_program(program);
  } catch (const UsageError&) {
    return "";
  }
}

/// Whether ::1 is an address of this machine.
inline bool has_ipv6_loopback() {
  try {
    const io::Listener listener("::1", 0);
    return true;
  } catch (const SystemError&) {
    return false;
  }
}

inline Arguments joined(std::initializer_list<Arguments> parts) {
  Arguments out;
  for (const Arguments& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}

/// One rank started by hand, or by an operator of Kubernetes.
inline Arguments plain_rank(int rank, int world_size, int port, const std::string& host_id) {
  return joined({{"/usr/bin/env", "RANK=" + std::to_string(rank), "WORLD_SIZE=" + std::to_string(world_size),
                  "MASTER_ADDR=127.0.0.1", "MASTER_PORT=" + std::to_string(port), "LOCKSTEP_HOST_ID=" + host_id},
                 exact_sum_command()});
}

/// Ranks 0 .. by hand, with the host ids given; an empty one: this host.
inline support::ProcessResult run_plain(const std::vector<std::string>& host_ids) {
  const int port = support::free_port();
  std::vector<Arguments> commands;
  for (const std::string& id : host_ids) {
    commands.push_back(plain_rank(static_cast<int>(commands.size()), static_cast<int>(host_ids.size()), port, id));
  }
  return support::run_programs(commands);
}

}  // namespace lockstep::mp
