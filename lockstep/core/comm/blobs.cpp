#include "lockstep/core/comm/blobs.h"

#include <cstdint>
#include <numeric>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

std::vector<std::size_t> sizes_of_all(Communicator& communicator, std::size_t own, const OpOptions& options) {
  const auto mine = static_cast<std::int64_t>(own);
  std::vector<std::int64_t> all(static_cast<std::size_t>(communicator.world_size()));
  communicator.all_gather(&mine, all.data(), 1, DType::kInt64, options);
  return {all.begin(), all.end()};
}

std::vector<std::string> cut(const std::string& bytes, const std::vector<std::size_t>& sizes) {
  std::vector<std::string> blobs;
  std::size_t begin = 0;
  for (const std::size_t size : sizes) {
    blobs.push_back(bytes.substr(begin, size));
    begin += size;
  }
  return blobs;
}

std::size_t sum_of(const std::vector<std::size_t>& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::size_t{0});
}

}  // namespace

std::vector<std::string> all_gather_blobs(Communicator& communicator, std::string_view blob, const OpOptions& options) {
  const std::vector<std::size_t> sizes = sizes_of_all(communicator, blob.size(), options);
  std::string bytes(sum_of(sizes), '\0');
  communicator.all_gather(blob.data(), bytes.data(), sizes, DType::kUInt8, options);
  return cut(bytes, sizes);
}

std::vector<std::string> gather_blobs(Communicator& communicator, std::string_view blob, int root,
                                      const OpOptions& options) {
  const std::vector<std::size_t> sizes = sizes_of_all(communicator, blob.size(), options);
  // An unequal gather is an all_to_all in which all send to the root only.
  const auto world = static_cast<std::size_t>(communicator.world_size());
  LS_REQUIRE(root >= 0 && static_cast<std::size_t>(root) < world, "rank ", communicator.rank(), "/", world, " group ",
             communicator.name(), ": gather_blobs: root ", root, " is not a rank of the group");
  std::vector<std::size_t> sent(world);
  sent[static_cast<std::size_t>(root)] = blob.size();
  const bool is_root = communicator.rank() == root;
  const std::vector<std::size_t> received = is_root ? sizes : std::vector<std::size_t>(world);
  std::string bytes(sum_of(received), '\0');
  communicator.all_to_all(blob.data(), sent, bytes.data(), received, DType::kUInt8, options);
  return is_root ? cut(bytes, sizes) : std::vector<std::string>();
}

std::string broadcast_blob(Communicator& communicator, std::string_view blob, int root, const OpOptions& options) {
  auto size = static_cast<std::int64_t>(blob.size());
  communicator.broadcast(&size, 1, DType::kInt64, root, options);
  const bool is_root = communicator.rank() == root;
  std::string bytes = is_root ? std::string(blob) : std::string(static_cast<std::size_t>(size), '\0');
  communicator.broadcast(bytes.data(), bytes.size(), DType::kUInt8, root, options);
  return bytes;
}

std::string scatter_blobs(Communicator& communicator, const std::vector<std::string>& blobs, int root,
                          const OpOptions& options) {
  const auto world = static_cast<std::size_t>(communicator.world_size());
  const bool is_root = communicator.rank() == root;
  LS_REQUIRE(!is_root || blobs.size() == world, "rank ", communicator.rank(), "/", world, " group ",
             communicator.name(), ": scatter_blobs was given ", blobs.size(), " blobs; expected one for each rank");
  std::vector<std::int64_t> sizes(world);
  std::vector<std::size_t> sent(world);
  std::string bytes;
  for (std::size_t rank = 0; is_root && rank < world; ++rank) {
    sent[rank] = blobs[rank].size();
    sizes[rank] = static_cast<std::int64_t>(sent[rank]);
    bytes += blobs[rank];
  }
  std::int64_t own = 0;
  communicator.scatter(sizes.data(), &own, 1, DType::kInt64, root, options);
  std::vector<std::size_t> received(world);
  received[static_cast<std::size_t>(root)] = static_cast<std::size_t>(own);
  std::string blob(static_cast<std::size_t>(own), '\0');
  communicator.all_to_all(bytes.data(), sent, blob.data(), received, DType::kUInt8, options);
  return blob;
}

void send_blob(Communicator& communicator, std::string_view blob, int peer, int tag, const OpOptions& options) {
  const auto size = static_cast<std::int64_t>(blob.size());
  communicator.send(&size, 1, DType::kInt64, peer, tag, options);
  communicator.send(blob.data(), blob.size(), DType::kUInt8, peer, tag, options);
}

std::pair<std::string, int> recv_blob(Communicator& communicator, int source, int tag, const OpOptions& options) {
  std::int64_t size = 0;
  const int from = communicator.recv(&size, 1, DType::kInt64, source, tag, options);
  std::string blob(static_cast<std::size_t>(size), '\0');
  communicator.recv(blob.data(), blob.size(), DType::kUInt8, from, tag, options);
  return {std::move(blob), from};
}

}  // namespace lockstep
