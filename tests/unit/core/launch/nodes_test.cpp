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
std::string mismatch_of(std::shared_ptr<Store> store, const NodeInfo& info, JobSignals& signals) {
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
  JobSignals signals;
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

NodeInfo node_of(int node_rank) {
  NodeInfo info{2, node_rank, 1, 3, "default"};
  info.silence = std::chrono::milliseconds(50);
  return info;
}

void meet(NodeGroup& node_0, NodeGroup& node_1, JobSignals& signals) {
  std::thread other([&] { EXPECT_TRUE(node_1.join(1, signals, Deadline::after(kPatience))); });
  EXPECT_TRUE(node_0.join(1, signals, Deadline::after(kPatience)));
  other.join();
}

/// Of a node whose one rank has failed.
RunEnd failed() {
  RunEnd end;
  end.workers.resize(1);
  end.workers[0].exit_code = 5;
  end.first_failure = 0;
  return end;
}

TEST(NodeGroup, OneThatIsLostEndsTheWaitForItAfterAFailureToo) {
  JobSignals signals;
  const auto store = make_memory_store();
  NodeGroup node_0(store, node_of(0));
  NodeGroup node_1(store, node_of(1));
  meet(node_0, node_1, signals);
  // Node 1 says no more. The rank of node 0 fails because of that, and its launcher knows nothing yet.
  const RunEnd end = failed();
  const Deadline deadline = Deadline::after(kPatience);
  while (node_0.ask(0, end, true).state != Elsewhere::State::kFinished && !deadline.passed()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ASSERT_TRUE(node_0.failure());
  EXPECT_TRUE(node_0.failure()->final);
  EXPECT_EQ(node_0.failure()->exit_code, 5) << "the first one counts";
  EXPECT_THAT(node_0.failure()->text,
              AllOf(HasSubstr("exited with code 5"), HasSubstr("node 1 has not been heard of")));
}

TEST(NodeGroup, CtrlCAfterAFailureIsHeardElsewhere) {
  JobSignals signals;
  const auto store = make_memory_store();
  NodeGroup node_0(store, node_of(0));
  NodeGroup node_1(store, node_of(1));
  meet(node_0, node_1, signals);
  RunEnd end = failed();
  node_1.ask(0, end, false);
  end.interrupted_by = SIGINT;
  node_1.ask(0, end, true);
  EXPECT_EQ(node_0.ask(0, {}, true).state, Elsewhere::State::kFinished);
  ASSERT_TRUE(node_0.failure());
  EXPECT_THAT(node_0.failure()->text, HasSubstr("node 1 got SIGINT"));
}

TEST(NodeGroup, OneThatLeavesBeforeTheStartMakesRoomForAnother) {
  JobSignals signals;
  const auto store = make_memory_store();
  EXPECT_THROW(NodeGroup(store, node_of(1)).join(1, signals, Deadline::after(std::chrono::milliseconds(1))),
               TimeoutError);
  std::thread other([&] { NodeGroup(store, node_of(1)).join(1, signals, Deadline::after(kPatience)); });
  EXPECT_NO_THROW(NodeGroup(store, node_of(0)).join(1, signals, Deadline::after(kPatience)));
  other.join();
}

}  // namespace
}  // namespace lockstep::launch
