// Groups of some of the ranks, and messages between two: a grid of ranks with a group for each row and each column.
//
//   lockstep run --nproc-per-node 4 -- ./groups

#include <cstdio>
#include <string>

#include <torch/torch.h>

#include "lockstep/lockstep.h"

int main() {
  auto world = lockstep::init_process_group();
  const int rank = world->rank();
  const int size = world->world_size();
  const int columns = size % 2 == 0 ? 2 : 1;

  // Every rank says which group it belongs to: rows of `columns` neighbours, and columns across the rows.
  auto row = world->split(/*color=*/rank / columns, /*key=*/rank);
  auto column = world->split(/*color=*/rank % columns, /*key=*/rank);

  // Both sums are under way at once; waiting for one moves the other.
  auto row_sum = torch::full({1}, rank, torch::kInt64);
  auto column_sum = row_sum.clone();
  lockstep::Work in_row = row->all_reduce_async(row_sum);
  lockstep::Work in_column = column->all_reduce_async(column_sum);
  in_column.wait();
  in_row.wait();

  // all_to_all with sizes of its own for each pair: rank r sends d + 1 copies of its number to rank d.
  std::vector<std::int64_t> sent(static_cast<std::size_t>(size));
  for (int to = 0; to < size; ++to) sent[static_cast<std::size_t>(to)] = to + 1;
  const std::vector<std::int64_t> received(static_cast<std::size_t>(size), rank + 1);
  auto outgoing = torch::full({size * (size + 1) / 2}, rank, torch::kInt64);
  auto incoming = torch::empty({size * (rank + 1)}, torch::kInt64);
  world->all_to_all(incoming, outgoing, received, sent);

  // A ring of messages, and a receive that takes whichever message comes first.
  const auto number = torch::full({1}, rank * 100, torch::kInt64);
  auto from_left = torch::empty({1}, torch::kInt64);
  lockstep::Work to_right = world->send_async(number, (rank + 1) % size, /*tag=*/1);
  const int left = world->recv(from_left, lockstep::kAnySource, /*tag=*/1);
  to_right.wait();

  // What is no tensor travels as bytes.
  const std::string name = "rank " + std::to_string(rank) + std::string(static_cast<std::size_t>(rank), '!');
  const std::vector<std::string> names = lockstep::all_gather_blobs(world->communicator(), name);

  std::printf("rank %d of %d: row %ld, column %ld, exchanged %ld, %ld from rank %d on the left, last name '%s'\n", rank,
              size, row_sum.item<long>(), column_sum.item<long>(), incoming.sum().item<long>(), from_left.item<long>(),
              left, names.back().c_str());
}
