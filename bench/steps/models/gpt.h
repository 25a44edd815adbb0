#pragma once

#include "bench/steps/models/model.h"

namespace lockstep::bench {

inline constexpr std::int64_t kVocabulary = 256;
inline constexpr std::int64_t kTokens = 128;  ///< of a sample

/// Causal attention of four heads and a linear layer four times as wide, each behind a LayerNorm and beside a shortcut.
class TransformerBlockImpl : public torch::nn::Module {
 public:
  explicit TransformerBlockImpl(std::int64_t width);
  torch::Tensor forward(const torch::Tensor& x);

 private:
  torch::Tensor attend(const torch::Tensor& x);

  torch::nn::LayerNorm ln1_{nullptr};
  torch::nn::Linear qkv_{nullptr};
  torch::nn::Linear proj_{nullptr};
  torch::nn::LayerNorm ln2_{nullptr};
  torch::nn::Linear up_{nullptr};
  torch::nn::Linear down_{nullptr};
};
TORCH_MODULE(TransformerBlock);

/// Four blocks of width 256 over 128 tokens: nearly all of a step is arithmetic.
/// Radford et al., "Language models are unsupervised multitask learners" (2019).
class GptImpl : public StepModelImpl {
 public:
  GptImpl();
  /// tokens [n, kTokens] -> [n, kTokens, kVocabulary]
  torch::Tensor forward(const torch::Tensor& tokens) override;

 private:
  torch::nn::Embedding tok_{nullptr};
  torch::nn::Embedding pos_{nullptr};
  torch::nn::Sequential blocks_;
  torch::nn::LayerNorm ln_{nullptr};
  torch::nn::Linear head_{nullptr};
};

}  // namespace lockstep::bench
