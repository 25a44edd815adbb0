// Runs a command on several hosts of this machine (tests/support/hosts.h), which are there as long as it runs.
//
//   hosts --hosts 4 --rate 1gbit -- lockstep run --nnodes 4 --node-rank {host} --master-addr {first} ... -- PROGRAM
//   hosts --hosts 4 --rate 1gbit --first-only -- mpirun --mca plm_rsh_agent {agent} --host {list:2} ... PROGRAM
//
// In every word of the command: {host} is the host's index, {address} its address, {first} that of host 0, {meet} an
// empty directory that all hosts see, {agent} a program that runs a command on another host as ssh would, {list:K} the
// addresses, each with K slots.

#include "tests/support/hosts.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "lockstep/core/base/check.h"
#include "lockstep/core/io/file.h"
#include "lockstep/core/launch/signals.h"
#include "lockstep/core/launch/supervisor.h"
#include "lockstep/core/launch/worker_plan.h"

namespace {

using Words = std::vector<std::string>;
using lockstep::base::cat;
using lockstep::support::Hosts;
namespace launch = lockstep::launch;

struct Options {
  int hosts = 2;
  lockstep::support::HostsOptions links;
  bool first_only = false;
  Words command;
};

std::string quoted(const std::string& word) {
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

/// A program that is called as ssh is, `AGENT [-x ...] ADDRESS COMMAND...`, and enters the host of that address.
std::string write_agent(const Hosts& hosts, const std::string& directory) {
  std::string text =
      "#!/bin/sh\nwhile case \"$1\" in -*) true ;; *) false ;; esac; do shift; done\n"
      "to=\"$1\"\nshift\ncase \"$to\" in\n";
  for (int host = 0; host < hosts.size(); ++host) {
    text += hosts.address(host) + ") exec";
    for (const std::string& word : hosts.on(host, {"sh", "-c"})) text += " " + quoted(word);
    text += " \"$*\" ;;\n";
  }
  text += "*) echo \"no host $to\" >&2; exit 255 ;;\nesac\n";
  const std::string path = directory + "/agent";
  lockstep::io::write_file_atomic(path, text, lockstep::io::Durability::kCached);
  LS_SYSCALL(::chmod(path.c_str(), 0700), "chmod ", path);
  return path;
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
}

void replace_list(std::string& word, const Hosts& hosts) {
  const auto begin = word.find("{list:");
  const auto end = begin == std::string::npos ? begin : word.find('}', begin);
  if (end == std::string::npos) return;
  std::string list;
  const std::string slots = word.substr(begin + 6, end - begin - 6);
  for (int host = 0; host < hosts.size(); ++host) list += cat(host == 0 ? "" : ",", hosts.address(host), ":", slots);
  word.replace(begin, end + 1 - begin, list);
}

int run(const Options& options) {
  if (const auto reason = Hosts::why_not()) throw std::runtime_error(*reason);
  launch::JobSignals signals;
  const Hosts hosts(options.hosts, options.links);
  const lockstep::io::TempDirectory directory("lockstep-hosts");
  const std::string meet = directory.path() + "/meet";
  std::filesystem::create_directory(meet);
  const std::string agent = write_agent(hosts, directory.path());
  launch::SupervisorOptions supervision;
  supervision.signals = &signals;
  supervision.grace = std::chrono::seconds(5);
  launch::Supervisor supervisor(std::move(supervision));
  for (int host = 0; host < (options.first_only ? 1 : hosts.size()); ++host) {
    Words command = options.command;
    for (std::string& word : command) {
      replace_all(word, "{host}", std::to_string(host));
      replace_all(word, "{address}", hosts.address(host));
      replace_all(word, "{first}", hosts.address(0));
      replace_all(word, "{meet}", meet);
      replace_all(word, "{agent}", agent);
      replace_list(word, hosts);
    }
    launch::WorkerSpec spec;
    spec.rank = spec.local_rank = host;
    spec.child.argv = hosts.on(host, command);
    spec.child.environment = launch::own_environment();
    spec.out.capture = spec.err.capture = false;
    supervisor.start(std::move(spec));
  }
  const launch::RunEnd end = supervisor.run();
  if (end.interrupted_by != 0) return 128 + end.interrupted_by;
  return end.first_failure ? end.workers[*end.first_failure].shell_code() : 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Runs a command on hosts of this machine that have a network between them (root)");
  app.add_option("--hosts", options.hosts, "how many")->check(CLI::Range(1, 200))->capture_default_str();
  app.add_option("--rate", options.links.rate, "of each link, each way: 1gbit, 100mbit; default: not limited");
  app.add_option("--delay-us", options.links.delay_us, "of a frame from one host to another")
      ->check(CLI::Range(0, 10'000'000))
      ->capture_default_str();
  app.add_flag("--first-only", options.first_only, "the command is run on host 0 alone, and starts the others itself");
  app.add_option("command", options.command, "after --; {host} {address} {first} {meet} {agent} {list:K} are filled in")
      ->required();
  CLI11_PARSE(app, argc, argv);
  try {
    return run(options);
  } catch (const std::exception& error) {
    std::cerr << "hosts: " << error.what() << '\n';
    return 2;
  }
}
