#pragma once
// Internal: what is libgloo's stays in this folder.

#include <memory>
#include <string>

#include <gloo/transport/tcp/device.h>

namespace lockstep::gloo_tcp {

/// The numeric address that peers can reach this process at: of the interface, or else of the one that routes to
/// `route_to`, or else of loopback. IPv4 where there is both. Throws UsageError that lists the interfaces there are, or
/// names the host that has no address; SystemError where no route leads there.
std::string local_address(const std::string& interface, const std::string& route_to);

/// The device at a local address: libgloo's thread for all connections of the process there. Shared while anybody has
/// it.
std::shared_ptr<::gloo::transport::tcp::Device> device_at(const std::string& address);

/// Ignores SIGPIPE, once, where nothing was said about it.
void ignore_sigpipe() noexcept;

}  // namespace lockstep::gloo_tcp
