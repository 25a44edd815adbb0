#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lockstep/core/base/error.h"
#include "lockstep/parallel/nn/sync_batch_norm.h"
#include "tests/unit/parallel/ddp/models.h"
#include "tests/unit/parallel/group/rank_threads.h"

namespace lockstep {
namespace {

using test::error_text;
using test::run_rank_threads;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Group = std::shared_ptr<ProcessGroup>;

Group alone() { return std::make_shared<ProcessGroup>(make_communicator(make_memory_store(), 0, 1)); }

at::Tensor numbers(at::IntArrayRef shape, int seed) {
  const at::Tensor index = at::arange(at::empty(shape).numel(), at::kDouble);
  return at::sin(index * 1.7 + seed * 2.3 + 0.4).view(shape);
}

/// A norm as a member, and a Sequential with two in it, one of which is nested.
struct NetImpl : torch::nn::Module {
  NetImpl() { to(at::kDouble); }
  at::Tensor forward(const at::Tensor& x) { return body->forward(norm(x)); }

  SyncBatchNorm norm = register_module("norm", SyncBatchNorm(4));
  torch::nn::Sequential body = register_module(
      "body", torch::nn::Sequential({{"first", torch::nn::Linear(4, 4)},
                                     {"bn", torch::nn::BatchNorm1d(torch::nn::BatchNormOptions(4).momentum(0.5))},
                                     {"last", torch::nn::Linear(4, 2)}}));
};
TORCH_MODULE(Net);

TEST(ConvertSyncBatchNorm, SynchronisesMembersAndEntriesOfSequentials) {
  run_rank_threads(3, [](const Group& group) {
    Net whole;
    Net net;
    const at::NoGradGuard no_grad;
    for (auto& item : whole->named_parameters()) {
      group->broadcast(item.value(), 0);
      net->named_parameters()[item.key()].copy_(item.value());
    }
    convert_sync_batch_norm(*net, group);
    const at::Tensor input = numbers({6, 4}, 1);
    const auto rank = static_cast<std::size_t>(group->rank());
    const at::Tensor expected = whole->forward(input).chunk(3)[rank];
    EXPECT_TRUE(at::allclose(net->forward(input.chunk(3)[rank]), expected, 1e-12, 1e-12));
    const auto buffers = whole->named_buffers();
    for (const auto& item : net->named_buffers()) {
      EXPECT_TRUE(at::allclose(item.value(), buffers[item.key()], 1e-12, 1e-12)) << item.key();
    }
  });
}

TEST(ConvertSyncBatchNorm, ChangesNothingElse) {
  const Group group = alone();
  Net net;
  net->body->eval();
  const auto parameters = net->named_parameters();
  const auto buffers = net->named_buffers();
  const auto modules = net->named_modules().keys();
  convert_sync_batch_norm(*net, group);
  EXPECT_EQ(net->norm->group(), group);
  const auto entry = net->body->ptr<SyncBatchNormImpl>(1);
  EXPECT_EQ(entry->group(), group);
  EXPECT_EQ(net->body->named_children()["bn"], entry);
  EXPECT_FALSE(entry->is_training());
  EXPECT_EQ(entry->options.momentum(), 0.5);
  EXPECT_EQ(net->named_modules().keys(), modules);
  ASSERT_EQ(net->named_parameters().keys(), parameters.keys());
  for (const auto& item : net->named_parameters()) EXPECT_TRUE(item.value().is_same(parameters[item.key()]));
  ASSERT_EQ(net->named_buffers().keys(), buffers.keys());
  for (const auto& item : net->named_buffers()) EXPECT_TRUE(item.value().is_same(buffers[item.key()]));

  const Group other = alone();
  convert_sync_batch_norm(*net, other);
  EXPECT_EQ(entry->group(), other);
}

TEST(ConvertSyncBatchNorm, TakesANormAloneASequentialAloneAndOneThatStandsTwice) {
  const Group group = alone();
  SyncBatchNorm norm(4);
  convert_sync_batch_norm(*norm, group);
  EXPECT_EQ(norm->group(), group);

  torch::nn::BatchNorm2d twice(4);
  torch::nn::Sequential sequential(twice, torch::nn::ReLU(), torch::nn::BatchNorm3d(4), twice);
  convert_sync_batch_norm(*sequential, group);
  EXPECT_EQ(sequential->ptr<SyncBatchNormImpl>(0), sequential->ptr<SyncBatchNormImpl>(3));
  EXPECT_EQ(sequential->ptr<SyncBatchNormImpl>(2)->group(), group);
  EXPECT_EQ(sequential->size(), 4U);
}

struct ResidualImpl : torch::nn::Module {
  torch::nn::BatchNorm2d bn1 = register_module("bn1", torch::nn::BatchNorm2d(4));
  torch::nn::ModuleList norms = register_module("norms", torch::nn::ModuleList(torch::nn::BatchNorm1d(4)));
  SyncBatchNorm fine = register_module("fine", SyncBatchNorm(4));
};
TORCH_MODULE(Residual);

TEST(ConvertSyncBatchNorm, NamesTheNormsItCannotRedirectAndChangesNothing) {
  torch::nn::Sequential net({{"ok", torch::nn::BatchNorm2d(4)}});
  Residual residual;
  net->register_module("residual", residual);
  const std::string text = error_text<UsageError>([&] { convert_sync_batch_norm(*net, alone()); });
  EXPECT_THAT(text, AllOf(HasSubstr("cannot redirect the calls of residual.bn1, residual.norms.0:"),
                          HasSubstr("declare it as lockstep::SyncBatchNorm")));
  EXPECT_EQ(residual->fine->group(), nullptr);
  EXPECT_NE(net->ptr(0)->as<torch::nn::BatchNorm2d>(), nullptr);
  torch::nn::BatchNorm1d norm(4);
  EXPECT_THAT(error_text<UsageError>([&] { convert_sync_batch_norm(*norm, alone()); }), HasSubstr("the module itself"));
  EXPECT_THAT(error_text<UsageError>([&] { convert_sync_batch_norm(*residual->fine, nullptr); }),
              HasSubstr("group is null"));
}

}  // namespace
}  // namespace lockstep
