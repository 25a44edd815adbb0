#pragma once
// Internal: what is libgloo's stays in this folder.

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/backend/gloo/connection.h"
#include "lockstep/core/store/store.h"

namespace lockstep::gloo_tcp {

/// Where a rank can be reached, as it says so in the store: one line of text.
struct Whereabouts {
  std::string protocol;  ///< kProtocol of the rank's build; where it is another one, nothing else is known
  std::string boot_id;
  std::string host;
  std::string address;     ///< numeric
  std::vector<int> ports;  ///< one a rank: where this rank awaits it; 0 where it doesn't

  std::string text() const;
  static Whereabouts parse(const std::string& text);
  bool is_ipv6() const { return address.find(':') != std::string::npos; }
  bool is_loopback() const { return address.starts_with("127.") || address == "::1"; }
};

/// The meeting of one rank with its peers: everybody tells the store where it is, reads where the others are, connects,
/// and greets. Every wait ends at the meeting's deadline and moves what the thread has in flight elsewhere.
class MeetingPoint {
 public:
  MeetingPoint(Store& store, const Meeting& meeting, std::vector<int> peers);

  /// `connections`: one a rank, null but for peers.
  void meet(const std::string& address, const std::vector<Connection*>& connections,
            const std::shared_ptr<tcp::Context>& context);

 private:
  void publish(const std::string& address, const std::vector<Connection*>& connections);
  void read();
  void check(int peer) const;
  void connect(const std::vector<Connection*>& connections);
  void greet(const std::vector<Connection*>& connections, const std::shared_ptr<tcp::Context>& context);

  std::string who() const;
  std::string key_of(int rank) const;
  /// Throws TimeoutError at the deadline: "... waited 30 s for rank(s) 2, 5 to <what>".
  template <typename Missing>
  void nap(Missing missing, std::string_view what);
  [[noreturn]] void left(int peer, Connection& connection) const;

  Store& store_;
  const Meeting& meeting_;
  std::vector<int> peers_;
  Whereabouts mine_;
  std::map<int, Whereabouts> theirs_;
  std::chrono::microseconds nap_{10};
};

}  // namespace lockstep::gloo_tcp
