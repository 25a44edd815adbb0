#pragma once

#include <string>

namespace torch::nn {
class Module;
}

namespace lockstep::train {

/// Writes the module's parameters and buffers to `file`, in libtorch's own archive: torch::load reads it in C++,
/// torch.jit.load in Python (`torch.jit.load(file).state_dict()`).
///
/// Atomic: written to a temporary file beside `file`, synced, renamed; on failure `file` is what it was and nothing
/// else is left. Call it on one rank. Throws SystemError that names the file.
void save_weights(const torch::nn::Module& module, const std::string& file);

/// Copies parameters and buffers of `file` (as written by save_weights or torch::save) into `module`, in place.
///
/// All names, shapes and dtypes are compared first; on failure the module is untouched. Throws SystemError (a missing
/// file), CorruptionError (no readable archive), MismatchError (of another model: names the first parameter that is
/// missing, left over or of another shape, and both shapes).
void load_weights(torch::nn::Module& module, const std::string& file);

/// Throws UsageError unless `file` can be created: its directory exists and is writable, and it is no directory
/// itself. For asking before a long run, not after it. `what` names the file's role in the message.
void require_writable(const std::string& file, const std::string& what);

}  // namespace lockstep::train
