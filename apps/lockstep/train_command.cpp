#include "apps/lockstep/train_command.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "lockstep/core/base/error.h"
#include "lockstep/core/launch/process.h"

namespace lockstep {
namespace {

constexpr const char* kTrainer = "lockstep-train";

/// The trainer's path, or nothing.
std::string find_trainer() {
  std::error_code error;
  const std::filesystem::path here = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  for (const auto& candidate : {here / kTrainer, here.parent_path() / kTrainer / kTrainer}) {
    if (std::filesystem::is_regular_file(candidate, error)) return candidate.string();
  }
  try {
    return launch::find_program(kTrainer);
  } catch (const UsageError&) {
    return "";
  }
}

}  // namespace

int train_command(const std::vector<std::string>& arguments) {
  const std::string trainer = find_trainer();
  if (trainer.empty()) {
    std::cerr << "lockstep train: found no '" << kTrainer << "' beside this program, in its build tree or on PATH; "
              << "it is built where libtorch is installed (cmake -DLOCKSTEP_WITH_TORCH=ON)\n";
    return 2;
  }
  std::vector<char*> argv = {const_cast<char*>(trainer.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ::execv(trainer.c_str(), argv.data());
  std::cerr << "lockstep train: can't execute " << trainer << ": " << std::strerror(errno) << "\n";
  return 2;
}

}  // namespace lockstep
