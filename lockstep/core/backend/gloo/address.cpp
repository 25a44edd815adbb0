#include "lockstep/core/backend/gloo/address.h"

#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>

#include <cerrno>
#include <map>
#include <mutex>
#include <set>

#include "lockstep/core/base/check.h"
#include "lockstep/core/io/fd.h"

namespace lockstep::gloo_tcp {
namespace {

namespace tcp = ::gloo::transport::tcp;

std::string text_of(const sockaddr* address) {
  char text[NI_MAXHOST] = {};
  const socklen_t size = address->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  const int status = ::getnameinfo(address, size, text, sizeof text, nullptr, 0, NI_NUMERICHOST);
  LS_CHECK(status == 0, "getnameinfo: ", ::gai_strerror(status));
  return text;
}

/// An IPv6 address that is good on one link only would need that link's name beside it.
bool usable(const sockaddr* address) {
  if (address == nullptr) return false;
  if (address->sa_family == AF_INET) return true;
  return address->sa_family == AF_INET6 &&
         !IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
}

std::string address_of_interface(const std::string& interface) {
  ifaddrs* list = nullptr;
  LS_SYSCALL(::getifaddrs(&list), "getifaddrs");
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(list, &::freeifaddrs);
  std::set<std::string> names;
  std::string found;
  for (const int family : {AF_INET, AF_INET6}) {
    for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
      names.insert(entry->ifa_name);
      if (!found.empty() || entry->ifa_name != interface || !usable(entry->ifa_addr)) continue;
      if (entry->ifa_addr->sa_family == family) found = text_of(entry->ifa_addr);
    }
  }
  std::string known;
  for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
  LS_REQUIRE(names.contains(interface), "network interface '", interface, "' does not exist; this host has ", known);
  LS_REQUIRE(!found.empty(), "network interface '", interface, "' has no IP address; this host has ", known);
  return found;
}

std::string address_towards(const std::string& host) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* list = nullptr;
  const int status = ::getaddrinfo(host.c_str(), "9", &hints, &list);
  LS_REQUIRE(status == 0, "host '", host, "' has no address: ", ::gai_strerror(status));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, &::freeaddrinfo);
  int error = EADDRNOTAVAIL;
  for (const int family : {AF_INET, AF_INET6}) {
    for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
      if (entry->ai_family != family) continue;
      // Connecting a datagram socket sends nothing: it picks the route, and with it the local address.
      const io::UniqueFd fd(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
      sockaddr_storage mine{};
      socklen_t size = sizeof mine;
      auto* const local = reinterpret_cast<sockaddr*>(&mine);
      if (fd && ::connect(fd.get(), entry->ai_addr, entry->ai_addrlen) == 0 &&
          ::getsockname(fd.get(), local, &size) == 0 && usable(local)) {
        return text_of(local);
      }
      error = errno;
    }
  }
  throw SystemError(base::cat("no route leads to host '", host, "'; name the network interface to use"), error);
}

}  // namespace

std::string local_address(const std::string& interface, const std::string& route_to) {
  if (!interface.empty()) return address_of_interface(interface);
  return route_to.empty() ? "127.0.0.1" : address_towards(route_to);
}

std::shared_ptr<tcp::Device> device_at(const std::string& address) {
  static std::mutex mutex;
  static std::map<std::string, std::weak_ptr<tcp::Device>> devices;
  const std::lock_guard lock(mutex);
  std::shared_ptr<tcp::Device> device = devices[address].lock();
  if (!device) {
    device = std::dynamic_pointer_cast<tcp::Device>(tcp::CreateDevice(tcp::attr(address.c_str())));
    LS_CHECK(device, "libgloo made a device of another kind");
    devices[address] = device;
  }
  return device;
}

void ignore_sigpipe() noexcept {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction present {};
    if (::sigaction(SIGPIPE, nullptr, &present) == 0 && (present.sa_flags & SA_SIGINFO) == 0 &&
        present.sa_handler == SIG_DFL) {
      present.sa_handler = SIG_IGN;
      ::sigaction(SIGPIPE, &present, nullptr);
    }
  });
}

}  // namespace lockstep::gloo_tcp
