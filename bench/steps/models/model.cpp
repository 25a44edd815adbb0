#include "bench/steps/models/model.h"

#include <array>
#include <memory>

#include "bench/steps/models/gpt.h"
#include "bench/steps/models/images.h"
#include "bench/steps/models/resnet18.h"

namespace lockstep::bench {
namespace {

template <typename Impl>
StepModel make() {
  return StepModel(std::shared_ptr<StepModelImpl>(std::make_shared<Impl>()));
}

template <std::int64_t kBatch>
torch::Tensor classes() {
  return torch::randint(kClasses, {kBatch});
}

}  // namespace

std::span<const ModelSpec> step_models() {
  static constexpr std::array<ModelSpec, 4> kModels = {{
      {"lenet", 64, 40, make<LeNetImpl>,
       [] {
         return torch::randn({64, 3, 32, 32});
       },
       classes<64>},
      {"mlp", 64, 10, make<MlpImpl>,
       [] {
         return torch::randn({64, 784});
       },
       classes<64>},
      {"resnet18", 8, 5, make<ResNet18Impl>,
       [] {
         return torch::randn({8, 3, 64, 64});
       },
       classes<8>},
      {"gpt", 8, 3, make<GptImpl>,
       [] {
         return torch::randint(kVocabulary, {8, kTokens});
       },
       [] {
         return torch::randint(kVocabulary, {8, kTokens});
       }},
  }};
  return kModels;
}

std::int64_t count_parameters(const torch::nn::Module& module) {
  std::int64_t count = 0;
  for (const torch::Tensor& parameter : module.parameters()) count += parameter.numel();
  return count;
}

}  // namespace lockstep::bench
