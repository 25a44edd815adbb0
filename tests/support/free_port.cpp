#include "tests/support/free_port.h"

#include <fstream>
#include <random>

#include "lockstep/core/base/error.h"
#include "lockstep/core/io/socket.h"

namespace lockstep::support {
namespace {

constexpr int kFirst = 10000;

/// The first port that the kernel gives away itself.
int first_ephemeral_port() {
  int first = 32768;
  std::ifstream("/proc/sys/net/ipv4/ip_local_port_range") >> first;
  return first > kFirst + 1000 ? first : 65535;
}

}  // namespace

int free_port() {
  static std::mt19937 random{std::random_device{}()};
  static std::uniform_int_distribution<int> ports(kFirst, first_ephemeral_port() - 2);
  for (;;) {
    const int port = ports(random);
    try {
      const io::Listener first("127.0.0.1", port);
      const io::Listener second("127.0.0.1", port + 1);
      return port;
    } catch (const SystemError&) {
      continue;
    }
  }
}

}  // namespace lockstep::support
