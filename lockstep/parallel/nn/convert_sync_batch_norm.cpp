// The whole tree is read before anything is changed, so that an error leaves the module as it was.
#include <map>
#include <memory>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/modules/container/sequential.h>

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/nn/sync_batch_norm.h"

namespace lockstep {
namespace {

using Group = std::shared_ptr<ProcessGroup>;
using torch::nn::Module;
using torch::nn::SequentialImpl;

struct Entry {
  SequentialImpl* owner;
  std::string name;
  std::shared_ptr<Module> norm;
};

struct Findings {
  std::vector<SyncBatchNormImpl*> synchronised;
  std::vector<Entry> entries;        ///< that can be replaced
  std::vector<std::string> members;  ///< full names of those that cannot
};

bool is_batch_norm(const Module& module) {
  return dynamic_cast<const torch::nn::BatchNorm1dImpl*>(&module) != nullptr ||
         dynamic_cast<const torch::nn::BatchNorm2dImpl*>(&module) != nullptr ||
         dynamic_cast<const torch::nn::BatchNorm3dImpl*>(&module) != nullptr;
}

/// Null where `module` is of a type derived from a BatchNorm: its forward is its own.
std::shared_ptr<SyncBatchNormImpl> sharing(const Module& module, const Group& group) {
  const auto as = [&]<typename Norm>(const Norm* norm) {
    return norm != nullptr && typeid(*norm) == typeid(Norm) ? std::make_shared<SyncBatchNormImpl>(*norm, group)
                                                            : nullptr;
  };
  if (auto norm = as(dynamic_cast<const torch::nn::BatchNorm1dImpl*>(&module))) return norm;
  if (auto norm = as(dynamic_cast<const torch::nn::BatchNorm2dImpl*>(&module))) return norm;
  return as(dynamic_cast<const torch::nn::BatchNorm3dImpl*>(&module));
}

bool calls(SequentialImpl& owner, const Module& module) {
  for (const torch::nn::AnyModule& entry : owner) {
    if (entry.ptr().get() == &module) return true;
  }
  return false;
}

void search(Module& module, const std::string& prefix, Findings& findings) {
  auto* const owner = dynamic_cast<SequentialImpl*>(&module);
  for (const auto& item : module.named_children()) {
    Module& child = *item.value();
    if (auto* norm = dynamic_cast<SyncBatchNormImpl*>(&child)) {
      findings.synchronised.push_back(norm);
    } else if (!is_batch_norm(child)) {
      search(child, prefix + item.key() + '.', findings);
    } else if (owner != nullptr && calls(*owner, child) && sharing(child, nullptr) != nullptr) {
      findings.entries.push_back({owner, item.key(), item.value()});
    } else {
      findings.members.push_back(prefix + item.key());
    }
  }
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

void convert_sync_batch_norm(Module& module, const Group& group) {
  LS_REQUIRE(group != nullptr, "convert_sync_batch_norm: group is null");
  Findings findings;
  if (auto* norm = dynamic_cast<SyncBatchNormImpl*>(&module)) {
    findings.synchronised.push_back(norm);
  } else if (is_batch_norm(module)) {
    findings.members.emplace_back("the module itself");
  } else {
    search(module, "", findings);
  }
  LS_REQUIRE(findings.members.empty(), "convert_sync_batch_norm: cannot redirect the calls of ",
             joined(findings.members), ": a torch::nn::BatchNorm that is no entry of a torch::nn::Sequential; declare ",
             "it as lockstep::SyncBatchNorm, which without a group is the same");

  for (SyncBatchNormImpl* norm : findings.synchronised) norm->set_group(group);
  // One that stands in two places stays one.
  std::map<const Module*, std::shared_ptr<SyncBatchNormImpl>> replacements;
  for (const Entry& entry : findings.entries) {
    auto& replacement = replacements[entry.norm.get()];
    if (replacement == nullptr) replacement = sharing(*entry.norm, group);
    entry.owner->replace_module(entry.name, replacement);
    for (torch::nn::AnyModule& any : *entry.owner) {
      if (any.ptr() == entry.norm) any = torch::nn::AnyModule(replacement);
    }
  }
}

}  // namespace lockstep
