#include "bench/steps/models/gpt.h"

#include <cmath>
#include <limits>

namespace lockstep::bench {
namespace {

constexpr std::int64_t kWidth = 256;
constexpr std::int64_t kHeads = 4;
constexpr int kBlocks = 4;

torch::nn::LayerNorm layer_norm(std::int64_t width) { return torch::nn::LayerNorm(std::vector<std::int64_t>{width}); }

}  // namespace

TransformerBlockImpl::TransformerBlockImpl(std::int64_t width) {
  ln1_ = register_module("ln1", layer_norm(width));
  qkv_ = register_module("qkv", torch::nn::Linear(width, 3 * width));
  proj_ = register_module("proj", torch::nn::Linear(width, width));
  ln2_ = register_module("ln2", layer_norm(width));
  up_ = register_module("up", torch::nn::Linear(width, 4 * width));
  down_ = register_module("down", torch::nn::Linear(4 * width, width));
}

torch::Tensor TransformerBlockImpl::attend(const torch::Tensor& x) {
  const std::int64_t samples = x.size(0);
  const std::int64_t tokens = x.size(1);
  const std::int64_t head_width = x.size(2) / kHeads;
  const auto parts = qkv_(ln1_(x)).view({samples, tokens, 3, kHeads, head_width}).permute({2, 0, 3, 1, 4}).unbind(0);
  auto scores = torch::matmul(parts[0], parts[1].transpose(-1, -2)) / std::sqrt(static_cast<double>(head_width));
  const auto future = torch::ones({tokens, tokens}, torch::kBool).triu(1);
  scores = scores.masked_fill(future, -std::numeric_limits<double>::infinity()).softmax(-1);
  return proj_(torch::matmul(scores, parts[2]).transpose(1, 2).reshape({samples, tokens, x.size(2)}));
}

torch::Tensor TransformerBlockImpl::forward(const torch::Tensor& x) {
  const auto attended = x + attend(x);
  return attended + down_(torch::gelu(up_(ln2_(attended))));
}

GptImpl::GptImpl() {
  tok_ = register_module("tok", torch::nn::Embedding(kVocabulary, kWidth));
  pos_ = register_module("pos", torch::nn::Embedding(kTokens, kWidth));
  register_module("blocks", blocks_);
  for (int block = 0; block < kBlocks; ++block) blocks_->push_back(TransformerBlock(kWidth));
  ln_ = register_module("ln", layer_norm(kWidth));
  head_ = register_module("head", torch::nn::Linear(torch::nn::LinearOptions(kWidth, kVocabulary).bias(false)));
}

torch::Tensor GptImpl::forward(const torch::Tensor& tokens) {
  const auto x = tok_(tokens) + pos_(torch::arange(tokens.size(1)));
  return head_(ln_(blocks_->forward(x)));
}

}  // namespace lockstep::bench
