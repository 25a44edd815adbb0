#include "lockstep/core/comm/subgroup.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "lockstep/core/base/check.h"
#include "lockstep/core/comm/init.h"
#include "lockstep/core/store/store.h"

namespace lockstep {
namespace {

std::string who(const Communicator& parent) {
  return base::cat("rank ", parent.rank(), "/", parent.world_size(), " group ", parent.name());
}

/// "0,2,3", or "0,1,2,..+61 more" where there are many.
std::string text_of(std::span<const int> ranks) {
  std::string text;
  const std::size_t shown = ranks.size() > 12 ? 8 : ranks.size();
  for (std::size_t i = 0; i < shown; ++i) text += base::cat(i > 0 ? "," : "", ranks[i]);
  if (shown < ranks.size()) text += base::cat(",..+", ranks.size() - shown, " more");
  return text;
}

int position_of(const Communicator& parent, std::span<const int> ranks) {
  std::vector<bool> seen(static_cast<std::size_t>(parent.world_size()));
  int own = -1;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    LS_REQUIRE(ranks[i] >= 0 && ranks[i] < parent.world_size(), who(parent), ": new_group: rank ", ranks[i],
               " is not in [0, ", parent.world_size(), ")");
    LS_REQUIRE(!seen[static_cast<std::size_t>(ranks[i])], who(parent), ": new_group: rank ", ranks[i],
               " is listed twice");
    seen[static_cast<std::size_t>(ranks[i])] = true;
    if (ranks[i] == parent.rank()) own = static_cast<int>(i);
  }
  LS_REQUIRE(own >= 0, who(parent), ": new_group: this rank is not in {", text_of(ranks),
             "}; only members call new_group");
  return own;
}

/// Builds the group among its members, who meet in the parent's store under `key`.
std::shared_ptr<Communicator> build(Communicator& parent, std::span<const int> ranks, const std::string& key,
                                    const SubgroupOptions& options) {
  const CommunicatorOptions& from = parent.options();
  LS_REQUIRE(from.store != nullptr, who(parent),
             ": its members share no store, in which subgroups could meet; make "
             "the group with make_communicator()");
  InitOptions init;
  init.backend = from.backend;
  init.network = from.network;
  init.name = options.name.empty() ? base::cat(parent.name(), "{", text_of(ranks), "}") : options.name;
  init.timeout = options.timeout.value_or(from.timeout);
  init.init_timeout = options.init_timeout.value_or(init.timeout);
  for (const int rank : ranks) {
    init.global_ranks.push_back(parent.global_rank(rank));
    if (!from.host_ids.empty()) init.host_ids.push_back(from.host_ids[static_cast<std::size_t>(rank)]);
  }
  // Members that have ended, or a parent that has failed: nobody will come.
  init.while_waiting = [&parent, ranks] { parent.look_after(ranks); };
  auto store = make_prefix_store(from.store, key);
  return make_communicator(std::move(store), position_of(parent, ranks), static_cast<int>(ranks.size()), init);
}

}  // namespace

std::shared_ptr<Communicator> new_group(Communicator& parent, std::span<const int> ranks,
                                        const SubgroupOptions& options) {
  position_of(parent, ranks);
  // Keys of the store are short: a long list stands there as its FNV-1a hash.
  std::string key = "group";
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const int rank : ranks) {
    key += base::cat("_", rank);
    hash = (hash ^ static_cast<std::uint64_t>(rank)) * 0x100000001b3ULL;
  }
  if (ranks.size() > 16) key = base::cat("group", ranks.size(), "_", hash);
  // Members made groups of just these ranks equally often.
  key += base::cat("/", parent.count_subgroup(key));
  return build(parent, ranks, key, options);
}

std::shared_ptr<Communicator> split(Communicator& parent, int color, int key, const SubgroupOptions& options) {
  const std::array<std::int32_t, 2> mine = {color, key};
  std::vector<std::array<std::int32_t, 2>> all(static_cast<std::size_t>(parent.world_size()));
  parent.all_gather(mine.data(), all.data(), 2, DType::kInt32);
  const std::uint64_t number = parent.count_subgroup("split");
  if (color < 0) return nullptr;
  std::vector<int> ranks;
  for (int rank = 0; rank < parent.world_size(); ++rank) {
    if (all[static_cast<std::size_t>(rank)][0] == color) ranks.push_back(rank);
  }
  std::stable_sort(ranks.begin(), ranks.end(), [&all](int a, int b) {
    return all[static_cast<std::size_t>(a)][1] < all[static_cast<std::size_t>(b)][1];
  });
  return build(parent, ranks, base::cat("split", number, "/", color), options);
}

}  // namespace lockstep
