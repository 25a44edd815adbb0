#include "tests/support/random_graph.h"

#include <algorithm>
#include <ostream>

#include <torch/torch.h>

#include "lockstep/parallel/nn/activation_checkpoint.h"
#include "tests/support/reentrant.h"

namespace lockstep::support {
namespace {

constexpr std::int64_t kWidth = 4;

at::Tensor random_tensor(at::IntArrayRef shape, std::uint64_t seed, at::ScalarType type = at::kDouble) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::randn(shape, generator, at::TensorOptions(at::kDouble)).mul_(0.5).to(type);
}

bool holds(const Condition& condition, const Position& position, const at::Tensor& x) {
  switch (condition.kind) {
    case Condition::Kind::kAlways: return true;
    case Condition::Kind::kNever: return false;
    case Condition::Kind::kOnRank: return position.rank == condition.which;
    case Condition::Kind::kNotOnRank: return position.rank != condition.which;
    case Condition::Kind::kInStep: return position.step == condition.which;
    case Condition::Kind::kInMicro: return position.micro == condition.which;
    case Condition::Kind::kWherePositive: return x.sum().item<double>() > 0;
  }
  return false;
}

}  // namespace

RandomGraphImpl::RandomGraphImpl(const GraphSpec& spec, int salt) : spec_(spec) {
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    Layer layer;
    layer.spec = spec.layers[i];
    const int tied_to = layer.spec.tied_to;
    layer.parameters = tied_to < 0 ? make_parameters(i, salt) : layers_[static_cast<std::size_t>(tied_to)].parameters;
    const bool frozen = tied_to < 0 ? layer.spec.frozen : !layer.parameters[0].requires_grad();
    for (std::size_t k = 0; k < layer.parameters.size(); ++k) {
      const std::string name = "l" + std::to_string(i) + "_" + std::to_string(k);
      register_parameter(name, layer.parameters[k], !frozen);
      if (tied_to >= 0) continue;
      unique_.push_back(layer.parameters[k]);
      ignored_.push_back(layer.spec.ignored);
      names_.push_back(name);
    }
    if (layer.spec.kind == LayerSpec::Kind::kDrift) {
      layer.buffer = register_buffer("b" + std::to_string(i), random_tensor({kWidth}, spec.seed + 77u * i + 7000u));
      if (salt != 0) layer.buffer.add_(salt);
    }
    layers_.push_back(std::move(layer));
  }
}

std::vector<at::Tensor> RandomGraphImpl::make_parameters(std::size_t index, int salt) {
  const std::uint64_t seed = spec_.seed * 1000u + index * 10u + static_cast<std::uint64_t>(salt) * 1000003u;
  switch (spec_.layers[index].kind) {
    case LayerSpec::Kind::kLinear: return {random_tensor({kWidth, kWidth}, seed), random_tensor({kWidth}, seed + 1)};
    case LayerSpec::Kind::kConv: return {random_tensor({1, 1, 3}, seed)};
    case LayerSpec::Kind::kScale:
    case LayerSpec::Kind::kDrift: return {random_tensor({kWidth}, seed)};
    case LayerSpec::Kind::kShift: return {random_tensor({}, seed)};
    case LayerSpec::Kind::kTransposed: return {random_tensor({kWidth, kWidth}, seed).t()};
    case LayerSpec::Kind::kFloat:
      return {random_tensor({kWidth, kWidth}, seed, at::kFloat), random_tensor({kWidth}, seed + 1, at::kFloat)};
    case LayerSpec::Kind::kTable: return {random_tensor({5, kWidth}, seed)};
    case LayerSpec::Kind::kEmpty: return {random_tensor({0}, seed)};
  }
  return {};
}

at::Tensor RandomGraphImpl::Layer::operator()(const at::Tensor& x, int step) const {
  const at::Tensor& w = parameters[0];
  switch (spec.kind) {
    case LayerSpec::Kind::kLinear: return at::linear(x, w, parameters[1]).tanh();
    case LayerSpec::Kind::kConv: return at::conv1d(x.unsqueeze(1), w, {}, 1, 1).squeeze(1).tanh();
    case LayerSpec::Kind::kScale: return x * w;
    case LayerSpec::Kind::kShift:
    case LayerSpec::Kind::kEmpty: return (x + w.sum()).tanh();
    case LayerSpec::Kind::kTransposed: return x.matmul(w).tanh();
    case LayerSpec::Kind::kFloat: return at::linear(x.to(at::kFloat), w, parameters[1]).tanh().to(at::kDouble);
    case LayerSpec::Kind::kTable: return (x + w.index_select(0, at::full({1}, step % 5, at::kLong))).tanh();
    case LayerSpec::Kind::kDrift: {
      const at::Tensor y = (x * w + buffer.clone()).tanh();
      // Where it is trained, as running statistics are.
      if (at::GradMode::is_enabled()) at::Tensor(buffer).copy_((buffer + y.detach().mean(0)) / 2);
      return y;
    }
  }
  return x;
}

at::Tensor RandomGraphImpl::run(const Instruction& instruction, const std::vector<at::Tensor>& values, int step) const {
  const at::Tensor& a = values[static_cast<std::size_t>(instruction.a)];
  const at::Tensor& b = values[static_cast<std::size_t>(instruction.b)];
  std::vector<at::Tensor> parameters;
  for (const int layer : instruction.layers) {
    const auto& its = layers_[static_cast<std::size_t>(layer)].parameters;
    parameters.insert(parameters.end(), its.begin(), its.end());
  }
  const auto layers = [this, step, chosen = instruction.layers](const at::Tensor& x) {
    at::Tensor y = x;
    for (const int layer : chosen) y = layers_[static_cast<std::size_t>(layer)](y, step);
    return y;
  };
  switch (instruction.kind) {
    case Instruction::Kind::kLayers: return layers(a);
    case Instruction::Kind::kAdd: return (a + b).tanh();
    case Instruction::Kind::kMultiply: return a * b;
    case Instruction::Kind::kRecomputed: {
      const auto function = [layers](const std::vector<at::Tensor>& x) {
        return std::vector<at::Tensor>{layers(x[0])};
      };
      return activation_checkpoint_function(function, {a}, {.parameters = parameters})[0];
    }
    case Instruction::Kind::kReentrant: return reentrant(layers, a);
  }
  return a;
}

std::vector<at::Tensor> RandomGraphImpl::forward(const at::Tensor& x, const Position& position) {
  std::vector<at::Tensor> values = {x};
  for (const Instruction& instruction : spec_.instructions) {
    const at::Tensor& first = values[static_cast<std::size_t>(instruction.a)];
    values.push_back(holds(instruction.condition, position, x) ? run(instruction, values, position.step) : first);
  }
  std::vector<at::Tensor> outputs;
  for (const int value : spec_.outputs) outputs.push_back(values[static_cast<std::size_t>(value)]);
  if (spec_.returns_parameter) outputs.push_back(layers_[0].parameters[0]);
  return outputs;
}

void RandomGraphImpl::toggle(int layer) {
  for (at::Tensor& parameter : layers_[static_cast<std::size_t>(layer)].parameters) {
    parameter.requires_grad_(!parameter.requires_grad());
  }
}

at::Tensor random_input(const GraphSpec& spec, const Position& position) {
  const int n = 1 + (position.rank + position.step) % 3;
  const auto seed =
      spec.seed * 131071u + static_cast<unsigned>(position.rank * 10007 + position.step * 101 + position.micro);
  return random_tensor({n, kWidth}, seed);
}

at::Tensor random_loss(const GraphSpec& spec, const std::vector<at::Tensor>& outputs) {
  at::Tensor loss = at::zeros({}, at::kDouble);
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const bool counts = i >= spec.in_loss.size() || spec.in_loss[i];
    if (counts) loss = loss + outputs[i].sin().mean() * (static_cast<double>(i) + 1);
  }
  return loss;
}

}  // namespace lockstep::support
