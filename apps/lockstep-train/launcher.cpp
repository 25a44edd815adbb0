#include "apps/lockstep-train/launcher.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/error.h"

namespace lockstep::app {
namespace {

constexpr const char* kFlag = "--nproc-per-node";

/// Beside this program (installed), else in the build tree, else a name for PATH.
std::string find_launcher(const std::filesystem::path& program) {
  const std::filesystem::path directory = program.parent_path();
  for (const auto& candidate : {directory / "lockstep", directory.parent_path() / "lockstep" / "lockstep"}) {
    std::error_code error;
    if (std::filesystem::is_regular_file(candidate, error) && ::access(candidate.c_str(), X_OK) == 0) {
      return candidate.string();
    }
  }
  return "lockstep";
}

}  // namespace

bool must_launch(std::int64_t nproc_per_node, const RankEnvironment& environment) {
  if (nproc_per_node == 0) return false;
  if (environment.source == "none") return nproc_per_node > 1;
  LS_REQUIRE(environment.local_world_size == nproc_per_node, "--nproc-per-node ", nproc_per_node,
             ": this process is already one of ", environment.local_world_size, " that ", environment.source,
             " started on this host; drop the flag or start as many");
  return false;
}

std::vector<std::string> launch_command(const std::string& launcher, const Options& options, const std::string& program,
                                        const std::vector<std::string>& arguments) {
  // Rank 0 alone prints, and its progress bar needs the terminal itself.
  std::vector<std::string> command = {launcher, "run", kFlag, std::to_string(options.nproc_per_node), "--no-prefix"};
  if (options.no_progress) command.push_back("--quiet");
  command.insert(command.end(), {"--", program});
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == kFlag) {
      ++i;
    } else if (!arguments[i].starts_with(std::string(kFlag) + "=")) {
      command.push_back(arguments[i]);
    }
  }
  return command;
}

void launch(const Options& options, const std::vector<std::string>& arguments) {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) throw SystemError("cannot find this program's own file", error.value());
  const std::string launcher = find_launcher(program);
  const std::vector<std::string> command = launch_command(launcher, options, program.string(), arguments);
  std::vector<char*> argv;
  for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ::execvp(launcher.c_str(), argv.data());
  LS_REQUIRE(errno != ENOENT, "--nproc-per-node ", options.nproc_per_node, ": found no 'lockstep' beside ",
             program.string(), " nor in PATH; start the workers with another launcher");
  throw SystemError("cannot start " + launcher, errno);
}

}  // namespace lockstep::app
