// A program that owns MPI and lends Lockstep a communicator: mpi_owner funneled|multiple. Exit code 0 when all is well.

#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <thread>

#include "lockstep/core/backend/mpi/mpi_transport.h"
#include "lockstep/core/base/check.h"
#include "lockstep/mpi.h"
#include "tests/mp/mpi_exchanges.h"

namespace {

using namespace lockstep;
using mpi::make_mpi_transport;
using mpi::MpiOptions;

std::string refusal_of(const Meeting& meeting, const MpiOptions& options) {
  try {
    make_mpi_transport(meeting, options);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "none";
}

void expect_refusal(const Meeting& meeting, const MpiOptions& options, const char* text) {
  const std::string refusal = refusal_of(meeting, options);
  LS_CHECK(refusal.find(text) != std::string::npos, "expected a refusal with '", text, "'; got: ", refusal);
}

/// `reversed` has the ranks of the world from the last to the first.
void use_transports(MPI_Comm reversed, bool any_thread) {
  int rank = 0;
  int size = 0;
  MPI_Comm_rank(reversed, &rank);
  MPI_Comm_size(reversed, &size);
  const Meeting meeting = {"reversed", rank, size, Deadline::after(std::chrono::seconds(50)), {}};
  MpiOptions options;
  options.parent = mpi_handle(reversed);
  {
    const auto transport = make_mpi_transport(meeting, options);
    LS_CHECK(transport->any_thread() == any_thread, transport->any_thread());
    mp::exchange_everything(*transport);
    if (any_thread) {
      std::thread other([&] { mp::exchange_everything(*transport); });
      other.join();
    } else {
      std::thread other([&] { expect_refusal(meeting, options, "for its main thread alone"); });
      other.join();
    }
  }
  options.members = {1, 0};
  if (rank < 2) mp::exchange_everything(*make_mpi_transport({"pair", 1 - rank, 2, meeting.deadline, {}}, options));
  if (rank == 2) expect_refusal(meeting, options, "rank 2 of the parent communicator is not among");
  options.members = {0, 0};
  expect_refusal(meeting, options, "rank 0 is listed twice");
  options.members = {};
  options.parent = mpi_handle(MPI_COMM_NULL);
  expect_refusal(meeting, options, "MPI_COMM_NULL");
  options.parent.nbytes = 3;
  expect_refusal(meeting, options, "is of another MPI");
}

int run(bool any_thread) {
  int provided = 0;
  MPI_Init_thread(nullptr, nullptr, any_thread ? MPI_THREAD_MULTIPLE : MPI_THREAD_FUNNELED, &provided);
  int rank = 0;
  int size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Comm reversed = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, 0, -rank, &reversed);

  // Receives of the program's own that would take anything: Lockstep's messages must never meet them.
  int from_world = -1;
  int from_reversed = -1;
  MPI_Request own[2];
  MPI_Irecv(&from_world, 1, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &own[0]);
  MPI_Irecv(&from_reversed, 1, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, reversed, &own[1]);
  use_transports(reversed, provided == MPI_THREAD_MULTIPLE);
  MPI_Send(&rank, 1, MPI_INT, (rank + 1) % size, 7, MPI_COMM_WORLD);
  MPI_Send(&rank, 1, MPI_INT, size - 1 - (rank + 1) % size, 7, reversed);
  MPI_Waitall(2, own, MPI_STATUSES_IGNORE);
  const int before = (rank + size - 1) % size;
  LS_CHECK(from_world == before && from_reversed == before, from_world, " ", from_reversed);

  int sum = 0;
  MPI_Allreduce(&size, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  LS_CHECK(sum == size * size, sum);
  MPI_Comm_free(&reversed);
  MPI_Finalize();
  expect_refusal({"late", rank, size, Deadline::none(), {}}, {}, "MPI was finalised in this process");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc > 1 && std::string_view(argv[1]) == "multiple");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
