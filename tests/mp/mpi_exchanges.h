#pragma once
// What a wire::Transport promises, as exchanges that every rank of one runs. A broken promise is an InternalError.

#include <memory>

#include "lockstep/core/backend/wire/transport.h"

namespace lockstep::mp {

/// Order within a channel, channels apart, sizes, receives before and after sends, many in flight, receives taken back.
void exchange_everything(wire::Transport& transport);
/// The same channels of two transports (or of one) at once.
void exchange_on_both(wire::Transport& a, wire::Transport& b);
/// A receive that nothing comes for.
std::unique_ptr<wire::Transfer> leave_a_receive(wire::Transport& transport);
/// Completed sends arrive although the transport goes right after.
void send_and_leave(std::unique_ptr<wire::Transport> transport);
/// Messages that nobody receives, to ranks some of which have ended theirs.
void send_to_those_that_left(std::unique_ptr<wire::Transport> transport);

}  // namespace lockstep::mp
