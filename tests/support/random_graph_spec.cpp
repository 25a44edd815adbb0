#include <algorithm>
#include <ostream>
#include <random>
#include <sstream>

#include "tests/support/random_graph.h"

namespace lockstep::support {
namespace {

/// Deals out one spec. What a mode forbids is never dealt: without find_unused_parameters and static_graph every
/// trained parameter has its gradient exactly once in every backward; a static graph is the same in every step, on each
/// rank.
class Dealer {
 public:
  Dealer(unsigned seed, int world) : random_(seed * 7919u + static_cast<unsigned>(world)) {
    spec_.seed = seed;
    spec_.world = world;
    spec_.mode = pick({GraphSpec::Mode::kPlain, GraphSpec::Mode::kFindUnused, GraphSpec::Mode::kStatic});
  }

  GraphSpec deal() {
    deal_training();
    deal_options();
    deal_graph();
    deal_toggles();
    return std::move(spec_);
  }

 private:
  bool plain() const { return spec_.mode == GraphSpec::Mode::kPlain; }
  int below(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  bool chance(int percent) { return below(100) < percent; }
  template <typename T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[below(static_cast<int>(values.size()))];
  }

  void deal_training() {
    spec_.steps = 2 + below(3);
    const int micros = pick({1, 1, 2, 3});
    for (int i = 0; i + 1 < micros; ++i) spec_.synchronises.push_back(chance(25));
    spec_.synchronises.push_back(true);
    spec_.adam = chance(40);
    spec_.clearing = pick({Clearing::kNot, Clearing::kZero, Clearing::kZero, Clearing::kNone, Clearing::kReplaced});
    if (chance(15)) {
      for (int rank = 0; rank < spec_.world; ++rank) spec_.inputs_of.push_back(below(spec_.steps + 1));
      spec_.inputs_of[static_cast<std::size_t>(below(spec_.world))] = spec_.steps;
      spec_.divide_by_world = chance(50);
      return;
    }
    spec_.forwards = chance(15) ? 2 : 1;
    spec_.evaluates = chance(25);
    spec_.weighs_samples = chance(20);
  }

  void deal_options() {
    spec_.bucket_cap_bytes = pick({std::size_t{1}, std::size_t{40}, std::size_t{200}, std::size_t{1} << 20});
    spec_.first_bucket_bytes = pick({std::size_t{1}, std::size_t{40}, std::size_t{1} << 20});
    spec_.init_sync = chance(90);
    spec_.broadcast_buffers = chance(80);
    spec_.own_hook = chance(20);
  }

  void deal_graph() {
    // A first layer that all outputs of the loss may lack but one: some gradient is there in every backward.
    spec_.instructions.push_back({.layers = {new_layer({.kind = LayerSpec::Kind::kLinear})}});
    const int n = 3 + below(8);
    for (int i = 0; i < n; ++i) deal_instruction();
    spec_.instructions.push_back({.kind = Instruction::Kind::kAdd, .a = 1, .b = last_value()});
    for (int i = below(3); i > 0; --i) {
      if (!plain() || chance(50)) new_layer({.kind = random_kind(), .frozen = plain()});  // In no instruction.
    }
    std::vector<bool> consumed(spec_.instructions.size() + 1, false);
    for (const Instruction& instruction : spec_.instructions) {
      consumed[static_cast<std::size_t>(instruction.a)] = true;
      if (is_binary(instruction)) consumed[static_cast<std::size_t>(instruction.b)] = true;
    }
    for (int value = 1; value <= static_cast<int>(spec_.instructions.size()); ++value) {
      const bool is_last = value == static_cast<int>(spec_.instructions.size());
      const bool kept = !consumed[static_cast<std::size_t>(value)] || chance(10);
      if (!kept) continue;
      spec_.outputs.push_back(value);
      spec_.in_loss.push_back(is_last || plain() || chance(60));
    }
    spec_.returns_parameter = chance(15);
  }

  void deal_instruction() {
    Instruction instruction;
    const int kind = below(100);
    // A condition is no way out for a plain graph; and value 0, which needs no gradient, is nothing to lose.
    instruction.a = chance(70) ? last_value() : below(last_value() + 1);
    instruction.b = below(last_value() + 1);
    if (kind < 20) {
      instruction.kind = kind < 12 ? Instruction::Kind::kAdd : Instruction::Kind::kMultiply;
    } else if (kind < 70) {
      instruction.layers = {any_layer(true)};
    } else if (kind < 85 || spec_.mode == GraphSpec::Mode::kFindUnused || (plain() && spec_.forwards > 1)) {
      instruction.kind = Instruction::Kind::kRecomputed;
      for (int i = 1 + below(3); i > 0; --i) instruction.layers.push_back(any_layer(false));
    } else {
      instruction.kind = Instruction::Kind::kReentrant;
      for (int i = 1 + below(3); i > 0; --i) {
        instruction.layers.push_back(plain() ? new_layer({.kind = recomputable_kind(), .exclusive = true})
                                             : any_layer(false));
      }
    }
    if (!plain()) instruction.condition = random_condition();
    spec_.instructions.push_back(std::move(instruction));
  }

  Condition random_condition() {
    using Kind = Condition::Kind;
    if (chance(60)) return {};
    const Kind kind = spec_.mode == GraphSpec::Mode::kStatic
                          ? pick({Kind::kNever, Kind::kOnRank, Kind::kNotOnRank})
                          : pick({Kind::kNever, Kind::kOnRank, Kind::kNotOnRank, Kind::kInStep, Kind::kInMicro,
                                  Kind::kWherePositive});
    return {kind, below(kind == Kind::kInStep ? spec_.steps : kind == Kind::kInMicro ? 3 : spec_.world)};
  }

  /// One that is there already, or a new one.
  int any_layer(bool may_drift) {
    if (chance(35)) {
      const int layer = below(static_cast<int>(spec_.layers.size()));
      const LayerSpec& spec = spec_.layers[static_cast<std::size_t>(layer)];
      if (!spec.exclusive && (may_drift || spec.kind != LayerSpec::Kind::kDrift)) return layer;
    }
    LayerSpec spec;
    spec.kind = may_drift ? random_kind() : recomputable_kind();
    spec.frozen = chance(15);
    // Of its own on each rank, so what other ranks' gradients are made of differs too.
    spec.ignored = !spec.frozen && chance(5);
    if (spec.kind == LayerSpec::Kind::kLinear && chance(20)) {
      spec.tied_to = 0;
      spec.frozen = spec.ignored = false;
    }
    return new_layer(spec);
  }

  int new_layer(const LayerSpec& spec) {
    spec_.layers.push_back(spec);
    return static_cast<int>(spec_.layers.size()) - 1;
  }

  void deal_toggles() {
    if (!spec_.inputs_of.empty() || !chance(20)) return;
    for (int layer = 1; layer < static_cast<int>(spec_.layers.size()); ++layer) {
      const LayerSpec& spec = spec_.layers[static_cast<std::size_t>(layer)];
      if (spec.tied_to < 0 && !spec.ignored && is_used(layer) && chance(30)) {
        spec_.toggles.emplace_back(1 + below(spec_.steps - 1), layer);
      }
    }
  }

  bool is_used(int layer) const {
    return std::ranges::any_of(spec_.instructions, [&](const Instruction& instruction) {
      return std::ranges::find(instruction.layers, layer) != instruction.layers.end();
    });
  }

  static bool is_binary(const Instruction& instruction) {
    return instruction.kind == Instruction::Kind::kAdd || instruction.kind == Instruction::Kind::kMultiply;
  }
  int last_value() const { return static_cast<int>(spec_.instructions.size()); }
  LayerSpec::Kind recomputable_kind() { return static_cast<LayerSpec::Kind>(below(8)); }
  LayerSpec::Kind random_kind() { return static_cast<LayerSpec::Kind>(below(9)); }

  std::mt19937 random_;
  GraphSpec spec_;
};

}  // namespace

GraphSpec random_graph_spec(unsigned seed, int world) { return Dealer(seed, world).deal(); }

std::vector<std::string> features_of(const GraphSpec& spec) {
  std::vector<std::string> features = {spec.mode == GraphSpec::Mode::kPlain        ? "plain"
                                       : spec.mode == GraphSpec::Mode::kFindUnused ? "find_unused_parameters"
                                                                                   : "static_graph"};
  const auto add = [&](bool has, const char* feature) {
    if (has) features.emplace_back(feature);
  };
  const auto any_layer = [&](auto predicate) { return std::ranges::any_of(spec.layers, predicate); };
  const auto any_instruction = [&](auto predicate) { return std::ranges::any_of(spec.instructions, predicate); };
  add(std::ranges::count(spec.synchronises, false) > 0, "no_sync");
  add(std::ranges::count(spec.synchronises, true) > 1, "several averages a step");
  add(!spec.inputs_of.empty(), spec.divide_by_world ? "join" : "join of those that are left");
  add(spec.weighs_samples, "average_over_samples");
  add(spec.own_hook, "hook");
  add(spec.forwards > 1, "two forwards");
  add(spec.evaluates, "evaluation");
  add(!spec.toggles.empty(), "freezing");
  add(spec.returns_parameter, "returns a parameter");
  add(!spec.init_sync, "no init_sync");
  add(!spec.broadcast_buffers, "no broadcast_buffers");
  add(spec.clearing == Clearing::kNone, "gradients cleared to none");
  add(spec.clearing == Clearing::kReplaced, "gradients replaced");
  add(spec.clearing == Clearing::kNot, "gradients kept");
  add(any_layer([](const LayerSpec& layer) { return layer.frozen; }), "frozen");
  add(any_layer([](const LayerSpec& layer) { return layer.ignored; }), "ignored");
  add(any_layer([](const LayerSpec& layer) { return layer.tied_to >= 0; }), "tied");
  add(any_layer([](const LayerSpec& layer) { return layer.kind == LayerSpec::Kind::kFloat; }), "two dtypes");
  add(any_layer([](const LayerSpec& layer) { return layer.kind == LayerSpec::Kind::kDrift; }), "buffers");
  add(any_instruction([](const auto& i) { return i.kind == Instruction::Kind::kRecomputed; }), "recomputed");
  add(any_instruction([](const auto& i) { return i.kind == Instruction::Kind::kReentrant; }), "reentrant");
  add(any_instruction([](const auto& i) { return i.condition.kind != Condition::Kind::kAlways; }), "branches");
  add(std::ranges::find(spec.in_loss, false) != spec.in_loss.end(), "outputs without loss");
  return features;
}

std::ostream& operator<<(std::ostream& out, const GraphSpec& spec) {
  out << "seed " << spec.seed << ", " << spec.world << " ranks:";
  for (const std::string& feature : features_of(spec)) out << ' ' << feature << ';';
  return out << " caps " << spec.first_bucket_bytes << ", " << spec.bucket_cap_bytes;
}

}  // namespace lockstep::support
