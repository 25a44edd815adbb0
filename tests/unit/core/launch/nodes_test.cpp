// How the launchers of two hosts agree; here they are two threads.

#include "lockstep/core/launch/nodes.h"

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/core/store/tcp_store.h"

namespace lockstep::launch {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr auto kPatience = std::chrono::seconds(30);

/// A node that reads nothing until some node has left.
class SlowReader final : public Store {
 public:
  explicit SlowReader(std::shared_ptr<Store> store) : store_(std::move(store)) {}
  void set(std::string_view key, std::string_view value) override { store_->set(key, value); }
  std::string get(std::string_view key, Deadline deadline) override { return store_->get(key, deadline); }
  std::optional<std::string> try_get(std::string_view key) override {
    store_->wait("launch/left", Deadline::after(kPatience));
    return store_->try_get(key);
  }
  std::int64_t add(std::string_view key, std::int64_t amount) override { return store_->add(key, amount); }
  std::string compare_and_set(std::string_view key, std::optional<std::string_view> expected,
                              std::string_view desired) override {
    return store_->compare_and_set(key, expected, desired);
  }
  bool erase(std::string_view key) override { return store_->erase(key); }

 private:
  std::shared_ptr<Store> store_;
};

/// What a node says that was started with other flags than another.
std::string mismatch_of(std::shared_ptr<Store> store, const NodeInfo& info, const JobSignals& signals) {
  try {
    NodeGroup(std::move(store), info).join(1, signals, Deadline::after(kPatience));
  } catch (const MismatchError& error) {
    return error.what();
  } catch (const Error& error) {
    return std::string("another error: ") + error.what();
  }
  return "no error";
}

TEST(NodeGroup, OfDifferentFlagsTellsTheSlowestNodeToo) {
  const JobSignals signals;
  auto server = std::make_unique<TcpStoreServer>(TcpStoreServerOptions{});
  const int port = server->port();
  std::string of_node_0;
  std::thread node_0([&] {
    of_node_0 = mismatch_of(server->local(), NodeInfo{2, 0, 1, 0, "default"}, signals);
    server.reset();  // as its process does
  });
  const auto store = std::make_shared<SlowReader>(connect_tcp_store("127.0.0.1", port, "", Deadline::after(kPatience)));
  const std::string of_node_1 = mismatch_of(store, NodeInfo{2, 1, 1, 1, "default"}, signals);
  node_0.join();
  EXPECT_THAT(of_node_0, AllOf(HasSubstr("node 0 was started with --nnodes 2 --max-restarts 0"),
                               HasSubstr("node 1 with --nnodes 2 --max-restarts 1")));
  EXPECT_THAT(of_node_1, AllOf(HasSubstr("node 1 was started with --nnodes 2 --max-restarts 1"),
                               HasSubstr("node 0 with --nnodes 2 --max-restarts 0")));
}

}  // namespace
}  // namespace lockstep::launch
