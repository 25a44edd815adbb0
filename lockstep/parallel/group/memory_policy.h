#pragma once

namespace lockstep {

/// Makes the C library keep freed memory for the next allocation, as a training loop wants it: by default glibc hands
/// large freed blocks back to the kernel, and each step pays for them again in page faults (ResNet-18: 13,700 a step).
/// The price is that the process keeps its largest footprint until it ends.
///
/// Does nothing where the user has decided: a MALLOC_* variable of glibc or GLIBC_TUNABLES is set, or
/// LOCKSTEP_MALLOC=default; nor where the C library is not glibc. init_process_group calls it.
/// Returns true when the policy is in force. Call it before the large tensors are made; a second call changes nothing.
/// Throws UsageError when LOCKSTEP_MALLOC is neither "auto" nor "default".
bool keep_freed_memory();

}  // namespace lockstep
