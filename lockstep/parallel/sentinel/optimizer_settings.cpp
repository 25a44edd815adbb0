#include "lockstep/parallel/sentinel/optimizer_settings.h"

#include <cxxabi.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <unordered_map>
#include <unordered_set>

#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include "lockstep/core/base/check.h"

namespace lockstep::sentinel {
namespace {

constexpr std::size_t kLongestValue = 60;  // In a message.

std::string text_of(bool value) { return value ? "on" : "off"; }
std::string text_of(std::int64_t value) { return std::to_string(value); }
std::string text_of(const std::string& value) { return value; }
/// The shortest digits that give the same number again.
std::string text_of(double value) {
  std::array<char, 32> digits;
  return {digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr};
}
std::string text_of(const std::tuple<double, double>& pair) {
  return text_of(std::get<0>(pair)) + ", " + text_of(std::get<1>(pair));
}
template <typename Optional>
auto text_of(const Optional& value) -> decltype(text_of(*value)) {
  return value ? text_of(*value) : "none";
}

std::string type_name(const std::type_info& type) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> name(abi::__cxa_demangle(type.name(), nullptr, nullptr, &status),
                                                    std::free);
  std::string text = status == 0 ? name.get() : type.name();
  const std::string_view ours = "torch::optim::";
  return text.starts_with(ours) ? text.substr(ours.size()) : text;
}

/// The lines of one param group.
class Lines {
 public:
  Lines(std::string& text, std::string subject) : text_(text), subject_(std::move(subject)) {}

  template <typename Value>
  Lines& add(std::string_view name, const Value& value) {
    text_.append(subject_).append(": ").append(name).append("\t").append(text_of(value)).append("\n");
    return *this;
  }

 private:
  std::string& text_;
  std::string subject_;
};

template <typename Options>
bool is_a(const torch::optim::OptimizerOptions& options, const Options*& as) {
  as = dynamic_cast<const Options*>(&options);
  return as != nullptr;
}

void add_options(Lines& lines, const torch::optim::OptimizerOptions& options) {
  namespace optim = torch::optim;
  if (const optim::SGDOptions* sgd = nullptr; is_a(options, sgd)) {
    lines.add("lr", sgd->lr()).add("momentum", sgd->momentum()).add("dampening", sgd->dampening());
    lines.add("weight_decay", sgd->weight_decay()).add("nesterov", sgd->nesterov());
  } else if (const optim::AdamOptions* adam = nullptr; is_a(options, adam)) {
    lines.add("lr", adam->lr()).add("betas", adam->betas()).add("eps", adam->eps());
    lines.add("weight_decay", adam->weight_decay()).add("amsgrad", adam->amsgrad());
  } else if (const optim::AdamWOptions* adamw = nullptr; is_a(options, adamw)) {
    lines.add("lr", adamw->lr()).add("betas", adamw->betas()).add("eps", adamw->eps());
    lines.add("weight_decay", adamw->weight_decay()).add("amsgrad", adamw->amsgrad());
  } else if (const optim::RMSpropOptions* rms = nullptr; is_a(options, rms)) {
    lines.add("lr", rms->lr()).add("alpha", rms->alpha()).add("eps", rms->eps());
    lines.add("weight_decay", rms->weight_decay()).add("momentum", rms->momentum()).add("centered", rms->centered());
  } else if (const optim::AdagradOptions* adagrad = nullptr; is_a(options, adagrad)) {
    lines.add("lr", adagrad->lr()).add("lr_decay", adagrad->lr_decay()).add("weight_decay", adagrad->weight_decay());
    lines.add("initial_accumulator_value", adagrad->initial_accumulator_value()).add("eps", adagrad->eps());
  } else if (const optim::LBFGSOptions* lbfgs = nullptr; is_a(options, lbfgs)) {
    lines.add("lr", lbfgs->lr()).add("max_iter", lbfgs->max_iter()).add("max_eval", lbfgs->max_eval());
    lines.add("tolerance_grad", lbfgs->tolerance_grad()).add("tolerance_change", lbfgs->tolerance_change());
    lines.add("history_size", lbfgs->history_size()).add("line_search_fn", lbfgs->line_search_fn());
  } else {
    try {
      lines.add("lr", options.get_lr());
    } catch (const std::exception&) {
      // An optimizer of the program's own that has no learning rate to tell: its type and parameters are compared.
    }
  }
}

std::string_view take_until(std::string_view& text, char separator) {
  const std::size_t end = std::min(text.find(separator), text.size());
  const std::string_view part = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return part;
}

std::string shorten(std::string_view value) {
  if (value.size() <= kLongestValue) return std::string(value);
  return base::cat(value.substr(0, kLongestValue), " ..");
}

}  // namespace

std::string describe(const Optimizers& optimizers, const NamedParameters& parameters) {
  std::unordered_map<const void*, std::string_view> names;
  for (const auto& [name, tensor] : parameters) names.emplace(tensor.unsafeGetTensorImpl(), name);
  std::string text;
  for (const torch::optim::Optimizer* optimizer : optimizers) {
    const std::string kind = type_name(typeid(*optimizer));
    for (std::size_t group = 0; group < optimizer->param_groups().size(); ++group) {
      const torch::optim::OptimizerParamGroup& settings = optimizer->param_groups()[group];
      Lines lines(text, base::cat(kind, " group ", group));
      if (settings.has_options()) add_options(lines, settings.options());
      std::string members = std::to_string(settings.params().size()) + " of them:";
      for (const at::Tensor& tensor : settings.params()) {
        const auto name = names.find(tensor.unsafeGetTensorImpl());
        members.append(" ").append(name == names.end() ? "(not of this module)" : name->second);
      }
      lines.add("parameters", members);
    }
  }
  return text;
}

std::string first_difference(std::string_view reference, std::string_view mine, int rank) {
  while (!reference.empty() || !mine.empty()) {
    std::string_view there = take_until(reference, '\n');
    std::string_view here = take_until(mine, '\n');
    if (there == here) continue;
    const std::string_view setting_there = take_until(there, '\t');
    const std::string_view setting_here = take_until(here, '\t');
    if (setting_there == setting_here) {
      // What the two values have in common is left out of long lists.
      const std::size_t shorter = std::min(there.size(), here.size());
      std::size_t same = 0;
      while (shorter > kLongestValue && same < shorter && there[same] == here[same]) ++same;
      return base::cat(setting_here, " is ", same > 0 ? ".. " : "", shorten(there.substr(same)), " on rank 0 but ",
                       same > 0 ? ".. " : "", shorten(here.substr(same)), " on rank ", rank);
    }
    const auto setting = [](std::string_view name) {
      return name.empty() ? std::string("nothing") : std::string(name);
    };
    return base::cat("rank 0's optimizers have '", setting(setting_there), "' where those of rank ", rank, " have '",
                     setting(setting_here), "'");
  }
  return {};
}

std::vector<std::size_t> left_out(const Optimizers& optimizers, const NamedParameters& parameters) {
  std::unordered_set<const void*> held;
  for (const torch::optim::Optimizer* optimizer : optimizers) {
    for (const auto& group : optimizer->param_groups()) {
      for (const at::Tensor& tensor : group.params()) held.insert(tensor.unsafeGetTensorImpl());
    }
  }
  std::vector<std::size_t> result;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const at::Tensor& tensor = parameters[i].second;
    if (tensor.requires_grad() && tensor.grad().defined() && held.count(tensor.unsafeGetTensorImpl()) == 0) {
      result.push_back(i);
    }
  }
  return result;
}

}  // namespace lockstep::sentinel
