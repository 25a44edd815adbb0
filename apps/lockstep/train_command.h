#pragma once

#include <string>
#include <vector>

namespace lockstep {

/// `lockstep train`: becomes the program lockstep-train, which links libtorch, with the same arguments. It is looked
/// for beside this program, in the build tree and on PATH. Returns only when that fails: 2, after one line on stderr.
int train_command(const std::vector<std::string>& arguments);

}  // namespace lockstep
