#include "lockstep/parallel/ddp/comm_hook.h"

#include <utility>

#include <ATen/ATen.h>

#include "lockstep/parallel/group/dtype_map.h"

namespace lockstep {
namespace {

class CompressHook final : public CommHook {
 public:
  CompressHook(std::string name, at::ScalarType narrow) : name_(std::move(name)), narrow_(narrow) {}

  std::string name() const override { return name_; }

  void prepare(ProcessGroup& group, const std::vector<GradientBucket>& buckets) override {
    sent_.clear();
    for (const GradientBucket& bucket : buckets) {
      const bool wide = bucket.buffer.scalar_type() == at::kFloat || bucket.buffer.scalar_type() == at::kDouble;
      sent_.push_back(wide ? group.allocate(bucket.buffer.numel(), group::from_torch(narrow_).value()) : at::Tensor());
    }
  }

  Work start(ProcessGroup& group, const GradientBucket& bucket) override {
    const at::NoGradGuard no_grad;
    at::Tensor& sent = sent_[bucket.index];
    at::Tensor buffer = bucket.buffer;
    if (!sent.defined()) return group.all_reduce_async(buffer, premul_sum(bucket.factor));
    // Divided before it is summed, since sums of float16 overflow early; after it is narrowed, as in PyTorch's.
    sent.copy_(buffer).div_(1 / bucket.factor);
    return group.all_reduce_async(sent, ReduceOp::kSum, OpOptions{.timeout = {}, .label = name_});
  }

  void finish(ProcessGroup&, const GradientBucket& bucket) override {
    const at::NoGradGuard no_grad;
    if (sent_[bucket.index].defined()) bucket.buffer.copy_(sent_[bucket.index]);
  }

 private:
  std::string name_;
  at::ScalarType narrow_;
  std::vector<at::Tensor> sent_;  // Of each bucket; undefined where it is not narrowed.
};

}  // namespace

void CommHook::prepare(ProcessGroup&, const std::vector<GradientBucket>&) {}
void CommHook::finish(ProcessGroup&, const GradientBucket&) {}

std::shared_ptr<CommHook> fp16_compress_hook() { return std::make_shared<CompressHook>("fp16_compress", at::kHalf); }
std::shared_ptr<CommHook> bf16_compress_hook() {
  return std::make_shared<CompressHook>("bf16_compress", at::kBFloat16);
}

}  // namespace lockstep
