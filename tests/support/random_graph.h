#pragma once
// Modules of random layers with branches, reuse, unused and frozen parameters and recomputed parts, and how each is
// trained: everything follows from a seed.

#include <cstddef>
#include <iosfwd>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

namespace lockstep::support {

/// Where a forward runs: what branches may depend on.
struct Position {
  int rank = 0;
  int step = 0;
  int micro = 0;  ///< the forward, of those of a step
};

/// When an instruction takes place; in other forwards its first input passes through.
struct Condition {
  enum class Kind { kAlways, kNever, kOnRank, kNotOnRank, kInStep, kInMicro, kWherePositive };
  Kind kind = Kind::kAlways;
  int which = 0;
};

struct LayerSpec {
  enum class Kind { kLinear, kConv, kScale, kShift, kTransposed, kFloat, kTable, kEmpty, kDrift };
  Kind kind = Kind::kLinear;
  bool frozen = false;
  bool ignored = false;    ///< by DDP
  int tied_to = -1;        ///< the layer whose parameters these are
  bool exclusive = false;  ///< in one place of the graph only
};

struct Instruction {
  enum class Kind {
    kLayers,  ///< one after the other
    kAdd,
    kMultiply,
    kRecomputed,  ///< the layers, computed again in backward: parameters get their gradients in the outer graph
    kReentrant,   ///< the same, with a backward of its own inside of the outer one
  };
  Kind kind = Kind::kLayers;
  std::vector<int> layers = {};
  int a = 0;  ///< inputs: value 0 is forward's, value i + 1 instruction i's
  int b = 0;
  Condition condition = {};
};

/// How gradients are cleared before a step.
enum class Clearing { kNot, kZero, kNone, kReplaced };

struct GraphSpec {
  enum class Mode { kPlain, kFindUnused, kStatic };
  unsigned seed = 0;
  int world = 1;
  Mode mode = Mode::kPlain;

  std::vector<LayerSpec> layers;
  std::vector<Instruction> instructions;
  std::vector<int> outputs;   ///< values that forward returns
  std::vector<bool> in_loss;  ///< of the outputs
  bool returns_parameter = false;

  std::size_t bucket_cap_bytes = 1;
  std::size_t first_bucket_bytes = 1;
  bool init_sync = true;
  bool broadcast_buffers = true;
  bool own_hook = false;

  int steps = 3;
  std::vector<bool> synchronises;  ///< of the backward passes of a step; the last does
  int forwards = 1;                ///< before each backward, which then goes through all of them
  bool adam = false;
  Clearing clearing = Clearing::kZero;
  bool evaluates = false;                    ///< after each step, on ranks with an odd number twice
  bool weighs_samples = false;               ///< average_over_samples
  std::vector<std::pair<int, int>> toggles;  ///< before this step, this layer is frozen, or no longer
  std::vector<int> inputs_of;                ///< join: how many steps each rank has; empty: no join
  bool divide_by_world = true;               ///< join

  /// Of a rank's batch: what weighs_samples counts. Some ranks have none.
  int samples_of(int rank, int step) const { return rank == 0 ? 2 : (rank * 3 + step + static_cast<int>(seed)) % 4; }
};

/// What a spec has, in words.
std::vector<std::string> features_of(const GraphSpec& spec);
std::ostream& operator<<(std::ostream& out, const GraphSpec& spec);

GraphSpec random_graph_spec(unsigned seed, int world);

class RandomGraphImpl : public torch::nn::Module {
 public:
  /// Parameters and buffers follow from the spec's seed and `salt`.
  RandomGraphImpl(const GraphSpec& spec, int salt);

  std::vector<at::Tensor> forward(const at::Tensor& x, const Position& position);

  /// Each once, in the order of registration.
  const std::vector<at::Tensor>& unique_parameters() const noexcept { return unique_; }
  /// Which of them DDP leaves alone, and their names.
  const std::vector<bool>& ignored() const noexcept { return ignored_; }
  const std::vector<std::string>& names() const noexcept { return names_; }
  void toggle(int layer);

 private:
  struct Layer {
    LayerSpec spec;
    std::vector<at::Tensor> parameters;
    at::Tensor buffer;
    at::Tensor operator()(const at::Tensor& x, int step) const;
  };
  std::vector<at::Tensor> make_parameters(std::size_t index, int salt);
  at::Tensor run(const Instruction& instruction, const std::vector<at::Tensor>& values, int step) const;

  const GraphSpec spec_;
  std::vector<Layer> layers_;
  std::vector<at::Tensor> unique_;
  std::vector<bool> ignored_;
  std::vector<std::string> names_;
};
TORCH_MODULE(RandomGraph);

/// forward's input, [1 to 3, 4] of float64.
at::Tensor random_input(const GraphSpec& spec, const Position& position);
at::Tensor random_loss(const GraphSpec& spec, const std::vector<at::Tensor>& outputs);

}  // namespace lockstep::support
