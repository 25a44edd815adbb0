// An unequal exchange in which the ranks disagree: libgloo ends a connection on which more comes than fits.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/backend/wire/wire_backend.h"
#include "lockstep/core/comm/communicator.h"
#include "tests/unit/core/backend/gloo/gloo_testing.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::size_t kCount = 70001;

/// Moves in its rank's own calls alone, as MPI with one thread does.
class InCallsAlone final : public wire::Transport {
 public:
  explicit InCallsAlone(std::unique_ptr<wire::Transport> transport) : transport_(std::move(transport)) {}
  std::string_view name() const noexcept override { return transport_->name(); }
  int rank() const noexcept override { return transport_->rank(); }
  int world_size() const noexcept override { return transport_->world_size(); }
  std::unique_ptr<wire::Transfer> send(int peer, int channel, const void* data, std::size_t nbytes) noexcept override {
    return transport_->send(peer, channel, data, nbytes);
  }
  std::unique_ptr<wire::Transfer> recv(int peer, int channel, void* data, std::size_t capacity) noexcept override {
    return transport_->recv(peer, channel, data, capacity);
  }
  bool gone(int peer) noexcept override { return transport_->gone(peer); }
  std::string why_gone(int peer) override { return transport_->why_gone(peer); }
  bool any_thread() const noexcept override { return false; }
  void close(Duration patience) noexcept override { transport_->close(patience); }
  bool takes_back_sends() const noexcept override { return transport_->takes_back_sends(); }

 private:
  std::unique_ptr<wire::Transport> transport_;
};

TEST(GlooExchange, ThatDisagreesIsAMismatchOnAllRanks) {
  for (const std::size_t expected : {kCount - 1, kCount + 1, std::size_t{0}}) {
    gloo_testing::with_transports(3, [expected](auto& transport, int rank, Store& store) {
      const auto communicator =
          Communicator::create(wire::make_wire_backend(std::make_shared<InCallsAlone>(std::move(transport)), "test",
                                                       Deadline::after(std::chrono::seconds(30))),
                               {});
      const std::vector<std::size_t> sends(3, kCount);
      std::vector<std::size_t> receives(3, kCount);
      if (rank == 1) receives[2] = expected;
      const std::vector<float> in(3 * kCount);
      std::vector<float> out(3 * kCount + 1);
      try {
        // Rank 2 finds that rank 1 has said what it calls, and must not send before it has looked at that: rank 1,
        // which computes, says nothing more.
        if (rank != 1) store.wait("begun", Deadline::after(std::chrono::seconds(30)));
        Work work = communicator->all_to_all_async(in.data(), sends, out.data(), receives, DType::kFloat32);
        if (rank == 1) {
          store.set("begun", "");
          store.wait("failed", Deadline::after(std::chrono::seconds(30)));
        }
        work.wait();
        communicator->barrier();  // Rank 0 may be through before the others find out.
        ADD_FAILURE() << "rank " << rank << ": no error";
      } catch (const MismatchError& error) {
        EXPECT_THAT(error.what(), AllOf(HasSubstr("rank 2 sends 70001 elements to rank 1"),
                                        HasSubstr("which expects " + std::to_string(expected))));
      } catch (const Error& error) {
        ADD_FAILURE() << "rank " << rank << ": " << error.what();
      }
      if (rank == 2) store.set("failed", "");
    });
  }
}

}  // namespace
}  // namespace lockstep
