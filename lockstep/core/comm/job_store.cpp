#include "lockstep/core/comm/job_store.h"

#include <sys/random.h>

#include <array>
#include <sstream>

#include "lockstep/core/base/check.h"
#include "lockstep/core/store/tcp_store.h"

namespace lockstep {
namespace {

std::string random_token() {
  std::array<unsigned char, 16> bytes{};
  LS_SYSCALL(static_cast<int>(::getrandom(bytes.data(), bytes.size(), 0)), "drawing a secret for the job");
  constexpr char kDigits[] = "0123456789abcdef";
  std::string token;
  for (const unsigned char byte : bytes) {
    token += kDigits[byte >> 4];
    token += kDigits[byte & 15];
  }
  return token;
}

}  // namespace

JobStore host_store(const std::string& address, int port, const std::string& token) {
  const auto server =
      std::make_shared<TcpStoreServer>(TcpStoreServerOptions{.address = address, .port = port, .token = token});
  const auto store = server->local();
  return {std::shared_ptr<Store>(store.get(), [server, store](Store*) {}),
          base::cat(address, ' ', server->port(), ' ', token)};
}

JobStore serve_job_store(const std::string& address) { return host_store(address, 0, random_token()); }

std::shared_ptr<Store> connect_job_store(const std::string& where, Deadline deadline) {
  std::istringstream in(where);
  std::string address;
  int port = 0;
  std::string token;
  in >> address >> port >> token;
  LS_REQUIRE(!in.fail(), "connect_job_store: the text is not of serve_job_store()");
  return connect_tcp_store(address, port, token, deadline);
}

}  // namespace lockstep
