// An MPI simulation that trains a network on its own data while it runs: heat spreads over a plate that is divided
// among the ranks by rows, and the network learns to tell a cell some steps ahead from the cells around it.
//
//   mpirun -np 2 ./mpi_surrogate          the mpirun of the MPI that it was built with
//
// The simulation owns MPI and keeps MPI_COMM_WORLD to itself; Lockstep works on a communicator of its own.

#include <mpi.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include <torch/torch.h>

#include "lockstep/lockstep.h"
#include "lockstep/mpi.h"

constexpr int kRows = 96;     // of the plate; each rank has its share of them
constexpr int kColumns = 64;  // the leftmost and the rightmost stay as they are
constexpr int kAhead = 4;     // simulation steps that the network looks ahead
constexpr int kReach = 2;     // it sees the cells at most so far away
constexpr int kPatch = (2 * kReach + 1) * (2 * kReach + 1);

/// This rank's rows of the plate, with kReach rows of each neighbour above and below (the halo).
class Plate {
 public:
  Plate(int rank, int size)
      : first_(kRows * rank / size),
        rows_(kRows * (rank + 1) / size - first_),
        above_(rank > 0 ? rank - 1 : MPI_PROC_NULL),
        below_(rank + 1 < size ? rank + 1 : MPI_PROC_NULL),
        cells_(static_cast<std::size_t>((rows_ + 2 * kReach) * kColumns)) {}

  int rows() const { return rows_; }
  double& at(int row, int column) { return cells_[static_cast<std::size_t>((row + kReach) * kColumns + column)]; }

  /// Two hot spots that wander from one round to the next.
  void heat(int round) {
    for (int row = 0; row < rows_; ++row) {
      for (int column = 0; column < kColumns; ++column) {
        const double y = first_ + row, x = column;
        const double a = std::hypot(y - 48 - 30 * std::sin(round), x - 32 - 20 * std::cos(1.3 * round));
        const double b = std::hypot(y - 48 + 35 * std::cos(0.7 * round), x - 32 + 18 * std::sin(round));
        at(row, column) = std::exp(-a * a / 60) + 0.5 * std::exp(-b * b / 150);
      }
    }
    exchange_halo();
  }

  /// One explicit step of the heat equation.
  void step() {
    Plate next(*this);
    for (int row = 0; row < rows_; ++row) {
      for (int column = 1; column + 1 < kColumns; ++column) {
        next.at(row, column) += 0.2 * (at(row - 1, column) + at(row + 1, column) + at(row, column - 1) +
                                       at(row, column + 1) - 4 * at(row, column));
      }
    }
    cells_.swap(next.cells_);
    exchange_halo();
  }

  /// Every cell's surroundings, rows() * (kColumns - 2 * kReach) x kPatch; and the cells themselves, the same x 1.
  torch::Tensor patches() {
    const auto all = torch::from_blob(cells_.data(), {rows_ + 2 * kReach, kColumns}, torch::kFloat64);
    const auto windows = all.unfold(0, 2 * kReach + 1, 1).unfold(1, 2 * kReach + 1, 1);
    return windows.reshape({-1, kPatch}).to(torch::kFloat32);
  }
  torch::Tensor centres() { return patches().slice(1, kPatch / 2, kPatch / 2 + 1); }

 private:
  void exchange_halo() {
    constexpr int kCount = kReach * kColumns;
    MPI_Sendrecv(&at(0, 0), kCount, MPI_DOUBLE, above_, 0, &at(rows_, 0), kCount, MPI_DOUBLE, below_, 0, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    MPI_Sendrecv(&at(rows_ - kReach, 0), kCount, MPI_DOUBLE, below_, 0, &at(-kReach, 0), kCount, MPI_DOUBLE, above_, 0,
                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  }

  int first_, rows_, above_, below_;
  std::vector<double> cells_;
};

double train(Plate& plate, int rank, int size) {
  // The two lines that connect them: a process group on a communicator that the simulation hands over.
  auto communicator = lockstep::make_mpi_communicator(MPI_COMM_WORLD);
  auto group = std::make_shared<lockstep::ProcessGroup>(communicator);

  torch::manual_seed(0);
  torch::nn::Sequential net(torch::nn::Linear(kPatch, 32), torch::nn::Tanh(), torch::nn::Linear(32, 1));
  lockstep::DistributedDataParallel ddp(net, group);
  torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(3e-3));

  double error = 0;
  for (int round = 0; round < 40; ++round) {
    plate.heat(round);
    torch::Tensor last_error;
    for (int i = 0; i < 5; ++i) {
      const auto before = plate.patches();
      for (int ahead = 0; ahead < kAhead; ++ahead) plate.step();
      optimizer.zero_grad();
      // What the network adds to the cell; every rank's rows count alike.
      const auto predicted = before.slice(1, kPatch / 2, kPatch / 2 + 1) + ddp->forward(before);
      last_error = torch::mse_loss(predicted, plate.centres());
      last_error.backward();
      optimizer.step();
    }
    // The simulation goes on using its own communicator.
    const double mine = last_error.item<double>();
    MPI_Allreduce(&mine, &error, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    error = std::sqrt(error / size);
    if (rank == 0 && round % 10 == 9) std::printf("round %2d: off by %.4f\n", round + 1, error);
  }
  return error;
}

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  Plate plate(rank, size);
  const double error = train(plate, rank, size);  // Lockstep's part is over before MPI's
  MPI_Finalize();
  return error < 0.005 ? 0 : 1;
}
