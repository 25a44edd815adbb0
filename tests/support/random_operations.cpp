#include "tests/support/random_operations.h"

#include <algorithm>
#include <array>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "lockstep/core/comm/subgroup.h"
#include "tests/support/random_detail.h"

namespace lockstep::support {
namespace {

using Kind = RandomKind;

constexpr std::array<const char*, 18> kNames = {"barrier",
                                                "broadcast",
                                                "all_reduce",
                                                "reduce",
                                                "reduce_scatter",
                                                "all_gather",
                                                "gather",
                                                "scatter",
                                                "all_to_all",
                                                "unequal all_gather",
                                                "unequal reduce_scatter",
                                                "unequal all_to_all",
                                                "coalesced all_reduce",
                                                "coalesced broadcast",
                                                "coalesced reduce_scatter",
                                                "coalesced all_gather",
                                                "send and recv",
                                                "recv from any rank"};
constexpr std::size_t kCollectives = 16;

constexpr std::array<DType, 4> kDTypes = {DType::kFloat32, DType::kInt32, DType::kUInt8, DType::kBFloat16};
constexpr std::array<ReduceOp, 4> kOps = {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin, ReduceOp::kPreMulSum};

std::string list_of(const std::vector<int>& ranks) {
  std::ostringstream out;
  for (const int rank : ranks) out << (out.tellp() == 0 ? "{" : ", ") << rank;
  return out.str() + "}";
}

bool is_unequal(Kind kind) { return kind >= Kind::kAllGatherUnequal && kind <= Kind::kAllToAllUnequal; }
bool is_coalesced(Kind kind) { return kind >= Kind::kAllReduceCoalesced && kind <= Kind::kAllGatherCoalesced; }

}  // namespace

RandomOperations::RandomOperations(std::shared_ptr<Communicator> world, unsigned seed, RandomOptions options)
    : world_(std::move(world)),
      options_(std::move(options)),
      shared_(seed),
      own_(seed * 1000003u + static_cast<unsigned>(world_->rank()) + 1u) {
  std::vector<int> all;
  for (int rank = 0; rank < world_->world_size(); ++rank) all.push_back(rank);
  add_group(world_, all);
  if (!options_.subgroups || options_.changing_groups) return;
  while (groups_.size() <= options_.max_groups) make_group();
}

RandomOperations::~RandomOperations() = default;

template <typename Body>
void RandomOperations::guarded(const std::shared_ptr<Communicator>& group, Body body) {
  try {
    body();
  } catch (const Error&) {
    failed_ = group;
    throw;
  }
}

void RandomOperations::abort(const std::string& cause) noexcept {
  for (const auto& member : groups_) {
    if (member->group) member->group->abort(cause);
  }
}

void RandomOperations::step() {
  ++step_;
  if (options_.subgroups && options_.changing_groups && draw(20) == 0) change_groups();
  Member& member = *groups_[draw(3) == 0 ? 0 : draw(groups_.size())];
  const Call call = draw_call(member);
  if (member.group) launch(call);
}

void RandomOperations::drain() {
  while (!in_flight_.empty()) finish(draw_own(in_flight_.size()));
}

// ---- groups ----

Duration RandomOperations::init_timeout(const std::vector<int>& ranks) const {
  const auto own = options_.timeout ? options_.timeout(step_, ranks) : std::nullopt;
  return own.value_or(world_->options().timeout);
}

void RandomOperations::change_groups() {
  if (groups_.size() > options_.max_groups || (groups_.size() > 1 && draw(3) == 0)) {
    drop_group(1 + draw(groups_.size() - 1));
  } else if (draw(4) == 0) {
    split_world();
  } else {
    make_group();
  }
}

/// Some ranks of some group, in any order.
void RandomOperations::make_group() {
  const Member& parent = *groups_[draw(2) == 0 ? 0 : draw(groups_.size())];
  std::vector<int> positions(parent.ranks.size());
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int>(i);
  // Not std::shuffle: what it draws is not specified alike for all libraries.
  for (std::size_t i = positions.size(); i > 1; --i) std::swap(positions[i - 1], positions[draw(i)]);
  positions.resize(1 + draw(positions.size()));
  std::vector<int> ranks;
  for (const int position : positions) ranks.push_back(parent.ranks[static_cast<std::size_t>(position)]);
  doing_ = "step " + std::to_string(step_) + ": new_group " + list_of(ranks);
  std::shared_ptr<Communicator> group;
  if (std::ranges::find(ranks, world_->rank()) != ranks.end()) {
    SubgroupOptions options;
    options.init_timeout = init_timeout(ranks);
    guarded(parent.group, [&] { group = new_group(*parent.group, positions, options); });
  }
  add_group(std::move(group), std::move(ranks));
}

void RandomOperations::split_world() {
  std::vector<std::pair<int, int>> colors_and_keys;
  for (int rank = 0; rank < world_->world_size(); ++rank) {
    const int color = static_cast<int>(draw(3)) - 1;
    colors_and_keys.emplace_back(color, static_cast<int>(draw(3)));
  }
  doing_ = "step " + std::to_string(step_) + ": split of the world";
  std::shared_ptr<Communicator> mine;
  const auto& [color, key] = colors_and_keys[static_cast<std::size_t>(world_->rank())];
  SubgroupOptions options;
  options.init_timeout = init_timeout(groups_[0]->ranks);
  guarded(world_, [&, c = color, k = key] { mine = split(*world_, c, k, options); });
  for (int each = 0; each < 2; ++each) {
    std::vector<int> ranks;
    for (int wanted = 0; wanted < 3; ++wanted) {
      for (std::size_t rank = 0; rank < colors_and_keys.size(); ++rank) {
        if (colors_and_keys[rank] == std::make_pair(each, wanted)) ranks.push_back(static_cast<int>(rank));
      }
    }
    if (ranks.empty()) continue;
    add_group(color == each ? mine : nullptr, std::move(ranks));
  }
}

void RandomOperations::add_group(std::shared_ptr<Communicator> group, std::vector<int> ranks) {
  auto member = std::make_unique<Member>(Member{std::move(group), std::move(ranks)});
  member->has_memory = draw(2) == 0;
  if (member->group) {
    for (std::size_t r = 0; r < member->ranks.size(); ++r) {
      if (member->group->global_rank(static_cast<int>(r)) != member->ranks[r]) {
        throw std::logic_error(doing_ + ": rank " + std::to_string(r) + " is another one");
      }
    }
    if (member->has_memory) {
      OpOptions options;
      options.timeout = init_timeout(member->ranks);
      guarded(member->group, [&] { member->memory = member->group->allocate(2 * kMemoryNbytes, options); });
    }
  }
  groups_.push_back(std::move(member));
}

void RandomOperations::drop_group(std::size_t index) {
  finish_all_of(*groups_[index]);
  groups_.erase(groups_.begin() + static_cast<std::ptrdiff_t>(index));
}

// ---- operations ----

std::size_t RandomOperations::draw_count() {
  switch (draw(4)) {
    case 0: return draw(20);
    case 1: return draw(options_.max_count);
    default: return draw(2000);
  }
}

RandomOperations::Call RandomOperations::draw_call(Member& member) {
  Call call;
  call.member = &member;
  call.kind = static_cast<Kind>(draw(kCollectives));
  if (options_.messages && draw(4) == 0) call.kind = draw(3) == 0 ? Kind::kFromAny : Kind::kRing;
  call.dtype = kDTypes[draw(kDTypes.size())];
  call.op = kOps[draw(is_floating(call.dtype) ? 4 : 3)];
  const std::size_t p = member.ranks.size();
  call.root = static_cast<int>(draw(p));
  call.count = draw_count();
  call.first = static_cast<std::size_t>(step_) * 37;
  call.in_place = draw(2) == 0;
  call.in_memory = draw(2) == 0 && member.has_memory;
  const std::size_t lists = is_coalesced(call.kind)
                                ? draw(12)
                                : (call.kind == Kind::kAllToAllUnequal ? p * p : (is_unequal(call.kind) ? p : 0));
  for (std::size_t i = 0; i < lists; ++i) call.counts.push_back(draw(3) == 0 ? 0 : draw_count() / 2);
  if (options_.timeout) call.options.timeout = options_.timeout(step_, member.ranks);
  std::ostringstream text;
  text << "step " << step_ << ": " << kNames[static_cast<std::size_t>(call.kind)] << " of " << call.count << ' '
       << name_of(call.dtype) << ' ' << name_of(call.op) << " root " << call.root << ", ranks "
       << list_of(member.ranks);
  call.text = text.str();
  return call;
}

void RandomOperations::launch(const Call& call) {
  doing_ = call.text;
  // One operation at a time in a group's own memory.
  for (std::size_t i = in_flight_.size(); i-- > 0;) {
    if (call.in_memory && in_flight_[i]->in_memory && in_flight_[i]->member == call.member) finish(i);
  }
  auto flight = std::make_unique<Flight>(Flight{call.member, call.member->group, call.text});
  doing_ = call.text;
  guarded(flight->group, [&] {
    if (is_unequal(call.kind)) return start_unequal(call, *flight);
    if (is_coalesced(call.kind)) return start_coalesced(call, *flight);
    if (call.kind == Kind::kRing) return start_ring(call, *flight);
    if (call.kind == Kind::kFromAny) return gather_from_any(call, *flight);
    start(call, *flight);
  });
  in_flight_.push_back(std::move(flight));
  if (draw_own(2) == 0) finish(in_flight_.size() - 1);
  if (in_flight_.size() > options_.max_in_flight) finish(draw_own(in_flight_.size()));
}

void RandomOperations::finish(std::size_t index) {
  const std::unique_ptr<Flight> flight = std::move(in_flight_[index]);
  in_flight_.erase(in_flight_.begin() + static_cast<std::ptrdiff_t>(index));
  doing_ = "wait for " + flight->text;
  guarded(flight->group, [&] {
    for (Work& work : flight->works) work.wait();
  });
  for (const Flight::Part& part : flight->parts) {
    const std::size_t wrong = part.pattern->count_wrong(part.data, part.count, part.first);
    if (wrong == 0) continue;
    throw std::logic_error(flight->text + ": " + std::to_string(wrong) + " of " + std::to_string(part.count) +
                           " elements are wrong");
  }
}

void RandomOperations::finish_all_of(const Member& member) {
  for (std::size_t i = in_flight_.size(); i-- > 0;) {
    if (in_flight_[i]->member == &member) finish(i);
  }
}

}  // namespace lockstep::support
