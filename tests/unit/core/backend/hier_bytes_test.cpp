// What crosses between hosts: counted on the wire, against what docs/algorithms.md states for each operation.

#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/core/backend/hier/hier_backend.h"
#include "lockstep/core/backend/hier/topology.h"
#include "lockstep/core/comm/communicator.h"
#include "lockstep/core/store/store.h"
#include "tests/support/ranks.h"
#include "tests/support/thread_transport.h"

namespace lockstep {
namespace {

constexpr std::size_t kCount = 3 << 20;  ///< elements of the whole buffer: several segments
constexpr std::size_t kBytes = kCount * 4;
/// Headers of 64 bytes (and of failures none): what an operation says besides its data is below this, in all.
constexpr std::size_t kHeaders = 64 << 10;

/// Bytes that leave each host while `body(communicator, rank)` runs on every rank.
template <typename Body>
std::map<int, std::size_t> leaving(const std::vector<int>& host_of, Body body) {
  const int world = static_cast<int>(host_of.size());
  const std::shared_ptr<Store> store = make_memory_store();
  const auto wire = std::make_shared<support::ThreadWire>(world);
  std::map<int, std::size_t> nbytes;
  support::run_ranks(world, [&](int rank) {
    std::vector<std::string> ids;
    for (const int host : host_of) ids.push_back(std::to_string(host));
    const Meeting meeting{"world", rank, world, Deadline::after(std::chrono::seconds(30)), {}};
    auto backend = make_hier_backend(*store, meeting, ids, std::make_shared<support::ThreadTransport>(wire, rank));
    const auto communicator = Communicator::create(std::move(backend), {});
    communicator->barrier();
    if (rank == 0) wire->reset();
    communicator->barrier();
    body(*communicator, rank);
    communicator->barrier();
    if (rank != 0) return;
    for (int from = 0; from < world; ++from) {
      for (int to = 0; to < world; ++to) {
        const int host = host_of[static_cast<std::size_t>(from)];
        if (host != host_of[static_cast<std::size_t>(to)]) nbytes[host] += wire->nbytes(from, to);
      }
    }
  });
  return nbytes;
}

void expect_about(const std::map<int, std::size_t>& got, const std::vector<std::size_t>& want) {
  for (std::size_t host = 0; host < want.size(); ++host) {
    const std::size_t nbytes = got.at(static_cast<int>(host));
    EXPECT_GE(nbytes, want[host]) << "host " << host;
    EXPECT_LE(nbytes, want[host] + kHeaders) << "host " << host;
  }
}

const std::vector<int> kTwoByTwo = {0, 0, 1, 1};
const std::vector<int> kUnequal = {0, 0, 0, 1, 1};

TEST(HierBytes, AllReduce) {
  for (const auto& hosts : {kTwoByTwo, kUnequal}) {
    const auto nbytes = leaving(hosts, [](Communicator& communicator, int) {
      std::vector<float> data(kCount, 1.0f);
      communicator.all_reduce(data.data(), data.data(), kCount, DType::kFloat32);
    });
    expect_about(nbytes, {kBytes, kBytes});
  }
}

TEST(HierBytes, AllReduceOverFourHosts) {
  const auto nbytes = leaving({0, 0, 1, 1, 2, 2, 3, 3}, [](Communicator& communicator, int) {
    std::vector<float> data(kCount, 1.0f);
    communicator.all_reduce(data.data(), data.data(), kCount, DType::kFloat32);
  });
  const std::size_t want = 2 * 3 * kBytes / 4;
  expect_about(nbytes, {want, want, want, want});
}

TEST(HierBytes, Broadcast) {
  const auto nbytes = leaving(kUnequal, [](Communicator& communicator, int) {
    std::vector<float> data(kCount, 1.0f);
    communicator.broadcast(data.data(), kCount, DType::kFloat32, 1);
  });
  expect_about(nbytes, {kBytes, 0});
}

TEST(HierBytes, Reduce) {
  const auto nbytes = leaving(kUnequal, [](Communicator& communicator, int rank) {
    std::vector<float> data(kCount, 1.0f);
    std::vector<float> sum(rank == 1 ? kCount : 0);
    communicator.reduce(data.data(), sum.data(), kCount, DType::kFloat32, 1);
  });
  expect_about(nbytes, {0, kBytes});
}

TEST(HierBytes, AllGatherAndReduceScatter) {
  constexpr std::size_t kPart = kCount / 5;
  const auto gathered = leaving(kUnequal, [](Communicator& communicator, int) {
    std::vector<float> mine(kPart, 1.0f);
    std::vector<float> all(5 * kPart);
    communicator.all_gather(mine.data(), all.data(), kPart, DType::kFloat32);
  });
  expect_about(gathered, {3 * kPart * 4, 2 * kPart * 4});  // Each host its own ranks' parts.
  const auto scattered = leaving(kUnequal, [](Communicator& communicator, int) {
    std::vector<float> all(5 * kPart, 1.0f);
    std::vector<float> mine(kPart);
    communicator.reduce_scatter(all.data(), mine.data(), kPart, DType::kFloat32);
  });
  expect_about(scattered, {2 * kPart * 4, 3 * kPart * 4});  // Each host the other's, summed.
}

TEST(HierBytes, AllToAll) {
  constexpr std::size_t kPart = kCount / 25;
  const auto nbytes = leaving(kUnequal, [](Communicator& communicator, int) {
    std::vector<float> all(5 * kPart, 1.0f);
    std::vector<float> received(5 * kPart);
    communicator.all_to_all(all.data(), received.data(), kPart, DType::kFloat32);
  });
  expect_about(nbytes, {3 * 2 * kPart * 4, 2 * 3 * kPart * 4});
}

TEST(HierTopology, HostsInOrderOfTheirLowestRank) {
  const hier::Topology topology = hier::topology_of({"b", "a", "b", "c", "a"}, 2);
  EXPECT_EQ(topology.hosts(), 3);
  EXPECT_EQ(topology.host(), 0);
  EXPECT_EQ(topology.local_rank(), 1);
  EXPECT_EQ(topology.ranks_of_host, (std::vector<std::vector<int>>{{0, 2}, {1, 4}, {3}}));
  EXPECT_EQ(topology.carriers(), 1);
  EXPECT_FALSE(topology.is_carrier());
  EXPECT_EQ(topology.carriers_at(0), (std::vector<int>{0, 1, 3}));
  EXPECT_FALSE(topology.contiguous());
  EXPECT_TRUE(hier::topology_of({"x", "x", "y", "y", "y"}, 0).contiguous());
}

}  // namespace
}  // namespace lockstep
