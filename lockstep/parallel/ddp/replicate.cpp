#include "lockstep/parallel/ddp/replicate.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <unordered_set>
#include <utility>

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/ddp/bucket_plan.h"
#include "lockstep/parallel/group/dtype_map.h"

namespace lockstep::ddp {
namespace {

constexpr std::size_t kChunkBytes = 32u << 20;  // of temporary memory while the state is broadcast
constexpr std::size_t kRecordBytes = 512;       // of text in which a rank says how it differs

/// Registered tensors, each once; undefined ones (BatchNorm without running statistics) are left out.
template <typename Items>
std::vector<NamedTensor> unique_tensors(const Items& items, const std::vector<std::string>& ignored,
                                        std::unordered_set<const void*>& seen) {
  std::vector<NamedTensor> result;
  for (const auto& item : items) {
    const at::Tensor& tensor = item.value();
    if (std::ranges::find(ignored, item.key()) != ignored.end()) continue;
    if (tensor.defined() && seen.insert(tensor.unsafeGetTensorImpl()).second) result.push_back({item.key(), tensor});
  }
  return result;
}

void require_carried(const char* kind, const NamedTensor& item) {
  const auto& [name, tensor] = item;
  const bool carried = tensor.layout() == at::kStrided && tensor.device().is_cpu() &&
                       group::from_torch(tensor.scalar_type()).has_value();
  LS_REQUIRE(carried, "DistributedDataParallel: ", kind, " '", name, "' is ", group::tensor_text(tensor),
             "; expected a dense tensor on the CPU of f32 f64 f16 bf16 i8 u8 i32 i64 bool: convert the module first");
  LS_REQUIRE(
      !tensor.requires_grad() || tensor.is_leaf(), "DistributedDataParallel: ", kind, " '", name,
      "' is the result of a computation and holds no gradient; register a leaf: tensor.detach().requires_grad_()");
}

/// One line of a description: the part that says which thing it is, and what it is like.
struct Entry {
  std::string subject;  // "parameter 3", the number being its place in the list
  std::string name;
  std::string what;  // "f32 [84, 120]"
};

std::string join(const std::vector<Entry>& entries) {
  std::string text;
  for (const Entry& entry : entries) text += entry.subject + '\t' + entry.name + '\t' + entry.what + '\n';
  return text;
}

std::vector<Entry> split(std::string_view text) {
  const auto until = [&](char separator) {
    const std::size_t end = std::min(text.find(separator), text.size());
    std::string part(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    return part;
  };
  std::vector<Entry> entries;
  while (!text.empty()) {
    Entry entry;
    entry.subject = until('\t');
    entry.name = until('\t');
    entry.what = until('\n');
    entries.push_back(std::move(entry));
  }
  return entries;
}

std::vector<Entry> describe(const ModuleState& state, const DdpOptions& options) {
  std::vector<Entry> entries;
  const auto add = [&](const char* kind, const std::vector<NamedTensor>& tensors, bool trained) {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      std::string what = group::tensor_text(tensors[i].tensor);
      if (trained && !tensors[i].tensor.requires_grad()) what += ", frozen";
      entries.push_back({base::cat(kind, " ", i), tensors[i].name, std::move(what)});
    }
  };
  add("parameter", state.parameters, true);
  add("buffer", state.buffers, false);
  entries.push_back({"option", "bucket_cap_bytes", std::to_string(options.bucket_cap_bytes)});
  entries.push_back({"option", "first_bucket_bytes", std::to_string(options.first_bucket_bytes)});
  const auto flag = [&](const char* name, bool on) { entries.push_back({"option", name, on ? "on" : "off"}); };
  flag("broadcast_buffers", options.broadcast_buffers);
  flag("find_unused_parameters", options.find_unused_parameters);
  flag("static_graph", options.static_graph);
  flag("sentinel.enabled", options.sentinel.enabled);
  entries.push_back({"option", "sentinel.checksum_every", std::to_string(options.sentinel.checksum_every)});
  return entries;
}

/// The first line in which `mine`, of `rank`, differs from rank 0's; empty when there is none.
std::string first_difference(const std::vector<Entry>& reference, const std::vector<Entry>& mine, int rank) {
  for (std::size_t i = 0; i < std::min(reference.size(), mine.size()); ++i) {
    const Entry& there = reference[i];
    const Entry& here = mine[i];
    if (there.subject != here.subject) {
      // One list is longer: the kind that comes first in a description is the one that the other rank lacks.
      const bool more_here = here.subject.starts_with("parameter") || there.subject.starts_with("option");
      const Entry& extra = more_here ? here : there;
      return base::cat(extra.subject, " '", extra.name, "' (", extra.what, ") exists on rank ", more_here ? rank : 0,
                       " but not on rank ", more_here ? 0 : rank);
    }
    if (there.name != here.name) {
      return base::cat(there.subject, " is '", there.name, "' (", there.what, ") on rank 0 but '", here.name, "' (",
                       here.what, ") on rank ", rank);
    }
    if (there.what != here.what) {
      return base::cat(there.subject, " '", there.name, "' is ", there.what, " on rank 0 but ", here.what, " on rank ",
                       rank);
    }
  }
  return {};
}

/// FNV-1a.
std::int64_t hash_of(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return static_cast<std::int64_t>(hash);
}

std::string broadcast_text(ProcessGroup& group, std::string text) {
  const OpOptions options{.timeout = {}, .label = "DDP: rank 0's module"};
  auto length = static_cast<std::int64_t>(text.size());
  group.communicator().broadcast(&length, 1, DType::kInt64, 0, options);
  text.resize(static_cast<std::size_t>(length));
  group.communicator().broadcast(text.data(), text.size(), DType::kUInt8, 0, options);
  return text;
}

/// As to.copy_(from), which takes a microsecond: networks have buffers by the dozen, and the others wait for rank 0's.
void copy_tensor(const at::Tensor& from, const at::Tensor& to, Versions versions) {
  if (from.numel() == 0) return;
  if (!from.is_contiguous() || !to.is_contiguous()) {
    to.variable_data().copy_(from);  // Has a version of its own.
  } else {
    std::memcpy(to.data_ptr(), from.data_ptr(), from.nbytes());
  }
  if (versions == Versions::kRaised) to.unsafeGetTensorImpl()->bump_version();
}

/// Each rank's line; a longer one is cut.
std::vector<std::string> gather_lines(ProcessGroup& group, const std::string& mine) {
  std::array<char, kRecordBytes> record{};
  mine.copy(record.data(), kRecordBytes - 1);
  std::vector<char> all(kRecordBytes * static_cast<std::size_t>(group.world_size()));
  group.communicator().all_gather(record.data(), all.data(), kRecordBytes, DType::kUInt8,
                                  {.timeout = {}, .label = "DDP: how modules differ"});
  std::vector<std::string> lines;
  for (std::size_t offset = 0; offset < all.size(); offset += kRecordBytes) lines.emplace_back(all.data() + offset);
  return lines;
}

}  // namespace

ModuleState collect_state(const torch::nn::Module& module, const std::vector<std::string>& ignored) {
  ModuleState state;
  std::unordered_set<const void*> seen;
  const auto parameters = module.named_parameters();
  const auto buffers = module.named_buffers();
  for (const std::string& name : ignored) {
    LS_REQUIRE(parameters.contains(name) || buffers.contains(name), "DistributedDataParallel: nothing is called '",
               name, "', which DdpOptions::ignored lists; named_parameters() and named_buffers() have the names");
  }
  state.parameters = unique_tensors(parameters, ignored, seen);
  state.buffers = unique_tensors(buffers, ignored, seen);
  for (const NamedTensor& item : state.parameters) require_carried("parameter", item);
  for (const NamedTensor& item : state.buffers) require_carried("buffer", item);
  require_trained(state);
  return state;
}

void require_trained(const ModuleState& state) {
  const bool any = std::ranges::any_of(state.parameters, [](const auto& item) { return item.tensor.requires_grad(); });
  LS_REQUIRE(any, "DistributedDataParallel: the module has no parameter that requires a gradient (",
             state.parameters.size(), " parameters in all); there is nothing to average: use the module itself");
}

void verify_state(ProcessGroup& group, const ModuleState& state, const DdpOptions& options) {
  const std::vector<Entry> mine = describe(state, options);
  const std::int64_t hash = hash_of(join(mine));
  std::vector<std::int64_t> hashes(static_cast<std::size_t>(group.world_size()));
  group.communicator().all_gather(&hash, hashes.data(), 1, DType::kInt64, {.timeout = {}, .label = "DDP: module hash"});
  if (std::ranges::count(hashes, hashes[0]) == group.world_size()) return;
  const std::vector<Entry> reference = split(broadcast_text(group, join(mine)));
  for (const std::string& line : gather_lines(group, first_difference(reference, mine, group.rank()))) {
    if (line.empty()) continue;
    throw MismatchError(base::cat("DistributedDataParallel group ", group.communicator().name(), ": ", line,
                                  "; build the same module with the same options on every rank"));
  }
  LS_CHECK(false, "module hashes differ but no line of the descriptions does");
}

void verify_text(ProcessGroup& group, const std::string& what, const std::string& text) {
  const std::vector<std::string> texts = gather_lines(group, text);
  const auto other = std::ranges::find_if(texts, [&](const std::string& line) { return line != texts[0]; });
  if (other == texts.end()) return;
  throw MismatchError(base::cat("DistributedDataParallel group ", group.communicator().name(), ": ", what, " is ",
                                texts[0], " on rank 0 but ", *other, " on rank ", other - texts.begin(),
                                "; give every rank the same"));
}

FlatBroadcast::FlatBroadcast(ProcessGroup& group, std::vector<NamedTensor> tensors, std::string label,
                             Versions versions)
    : group_(group), tensors_(std::move(tensors)), label_(std::move(label)), versions_(versions) {
  std::vector<std::size_t> offsets;
  std::size_t total = 0;
  for (const NamedTensor& item : tensors_) {
    offsets.push_back(total);
    total += (item.tensor.nbytes() + kSlotAlignment - 1) / kSlotAlignment * kSlotAlignment;
  }
  flat_ = group.allocate(static_cast<std::int64_t>(std::max(total, kSlotAlignment)), DType::kUInt8,
                         {.timeout = {}, .label = label_});
  auto* const base = static_cast<std::byte*>(flat_.data_ptr());
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const at::Tensor& tensor = tensors_[i].tensor;
    // Contiguous, whatever the tensor's own strides: ranks need not agree on those.
    slots_.push_back(at::from_blob(base + offsets[i], tensor.sizes(), tensor.options().requires_grad(false)));
  }
}

void FlatBroadcast::run(int root) {
  const at::NoGradGuard no_grad;
  const bool sends = group_.rank() == root;
  for (std::size_t i = 0; sends && i < tensors_.size(); ++i) copy_tensor(tensors_[i].tensor, slots_[i], versions_);
  group_.broadcast(flat_, root, {.timeout = {}, .label = label_});
  for (std::size_t i = 0; !sends && i < tensors_.size(); ++i) copy_tensor(slots_[i], tensors_[i].tensor, versions_);
}

void broadcast_state(ProcessGroup& group, const ModuleState& state, int root) {
  std::vector<NamedTensor> chunk;
  std::size_t bytes = 0;
  const auto flush = [&] {
    if (!chunk.empty())
      FlatBroadcast(group, std::exchange(chunk, {}), "DDP: parameters and buffers", Versions::kRaised).run(root);
    bytes = 0;
  };
  for (const auto* list : {&state.parameters, &state.buffers}) {
    for (const NamedTensor& item : *list) {
      if (bytes + item.tensor.nbytes() > kChunkBytes) flush();
      chunk.push_back(item);
      bytes += item.tensor.nbytes();
    }
  }
  flush();
}

}  // namespace lockstep::ddp
