#include "lockstep/parallel/train/weights.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <sstream>
#include <utility>
#include <vector>

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/nn/module.h>
#include <torch/serialize/output-archive.h>
#include <torch/types.h>

#include "lockstep/core/base/check.h"
#include "lockstep/core/io/fd.h"
#include "lockstep/core/io/file.h"

namespace lockstep::train {
namespace {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

NamedTensors tensors_of(const torch::nn::Module& module) {
  NamedTensors tensors;
  for (const auto& item : module.named_parameters()) tensors.emplace_back(item.key(), item.value());
  for (const auto& item : module.named_buffers()) tensors.emplace_back(item.key(), item.value());
  return tensors;
}

std::map<std::string, at::Tensor> read_archive(const std::string& file) {
  {
    // What libtorch says of a file that is not there is a page long.
    const io::UniqueFd fd(LS_SYSCALL(::open(file.c_str(), O_RDONLY | O_CLOEXEC), "cannot open weights file ", file));
  }
  try {
    const torch::jit::Module archive = torch::jit::load(file, torch::kCPU);
    std::map<std::string, at::Tensor> tensors;
    for (const auto& item : archive.named_parameters()) tensors.emplace(item.name, item.value);
    for (const auto& item : archive.named_buffers()) tensors.emplace(item.name, item.value);
    return tensors;
  } catch (const c10::Error& error) {
    std::string reason = error.what_without_backtrace();
    reason.resize(std::min(reason.find('\n'), reason.size()));
    throw CorruptionError(base::cat("weights file ", file, " is not a readable PyTorch archive: ", reason), file);
  }
}

std::string describe(const at::Tensor& tensor) { return base::cat(tensor.sizes(), " ", tensor.scalar_type()); }

}  // namespace

void save_weights(const torch::nn::Module& module, const std::string& file) {
  torch::serialize::OutputArchive archive;
  module.save(archive);
  std::ostringstream bytes;
  archive.save_to(bytes);
  io::write_file_atomic(file, bytes.view());
}

void load_weights(torch::nn::Module& module, const std::string& file) {
  std::map<std::string, at::Tensor> stored = read_archive(file);
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;
  for (auto& [name, tensor] : tensors_of(module)) {
    const auto found = stored.find(name);
    if (found == stored.end()) {
      throw MismatchError(
          base::cat("weights file ", file, " is of another model: it lacks ", name, " ", describe(tensor)));
    }
    if (found->second.sizes() != tensor.sizes() || found->second.scalar_type() != tensor.scalar_type()) {
      throw MismatchError(base::cat("weights file ", file, " is of another model: ", name, " is ",
                                    describe(found->second), " in the file and ", describe(tensor), " here"));
    }
    copies.emplace_back(tensor, found->second);
    stored.erase(found);
  }
  if (!stored.empty()) {
    throw MismatchError(base::cat("weights file ", file, " is of another model: it holds ", stored.begin()->first, " ",
                                  describe(stored.begin()->second), ", which this model lacks"));
  }
  const torch::NoGradGuard no_grad;
  for (auto& [to, from] : copies) to.copy_(from);
}

void require_writable(const std::string& file, const std::string& what) {
  const std::string parent = std::filesystem::path(file).parent_path().string();
  const std::string directory = parent.empty() ? "." : parent;
  std::error_code error;
  LS_REQUIRE(!std::filesystem::is_directory(file, error), what, " '", file, "': is a directory; expected a file");
  LS_REQUIRE(std::filesystem::is_directory(directory, error), what, " '", file, "': there is no directory '", directory,
             "'");
  LS_REQUIRE(::access(directory.c_str(), W_OK) == 0, what, " '", file, "': directory '", directory,
             "' is not writable");
}

}  // namespace lockstep::train
