#pragma once

namespace lockstep::support {

/// A port for a listener that a test starts later, in another process: it was free a moment ago, and so was the next
/// one. It lies below those that the kernel gives to whoever asks for any, so that no connection takes it meanwhile.
int free_port();

}  // namespace lockstep::support
