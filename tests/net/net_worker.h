#pragma once
// Ranks on several hosts: this test binary, run again in their namespaces. Bodies are LOCKSTEP_WORKERs.

#include <string>
#include <vector>

#include "tests/support/hosts.h"
#include "tests/support/processes.h"

namespace lockstep::net {

/// At the head of a test that needs hosts: skips it with the reason where there can be none.
#define LOCKSTEP_NEEDS_HOSTS() \
  if (const auto reason = ::lockstep::support::Hosts::why_not()) GTEST_SKIP() << *reason

/// Where rank 0 serves the store; every bed has its ports for itself.
inline constexpr int kMasterPort = 29500;

/// Runs ranks_per_host[h] copies of the named worker on host h, ranks counted through from host 0, with the environment
/// that torchrun gives (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, GROUP_RANK, GROUP_WORLD_SIZE, MASTER_ADDR,
/// MASTER_PORT) and LOCKSTEP_JOB_TOKEN: rank 0 is to serve the store. No launcher watches over them: one that fails
/// leaves the others running. Results are in order of rank; on_line may signal ranks, and cut and restore hosts.
support::ProcessResult run_on_hosts(const support::Hosts& hosts, const std::vector<int>& ranks_per_host,
                                    const std::string& worker, const support::Arguments& arguments = {},
                                    const support::ProcessOptions& options = {});

/// Runs commands[h] on host h, without a launcher's environment; variables[h] are set there alone.
support::ProcessResult run_one_each(const support::Hosts& hosts, std::vector<support::Arguments> commands,
                                    std::vector<launch::Variables> variables,
                                    const support::ProcessOptions& options = {});

}  // namespace lockstep::net
