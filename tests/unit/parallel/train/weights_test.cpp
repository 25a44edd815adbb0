#include "lockstep/parallel/train/weights.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lockstep/core/base/error.h"
#include "lockstep/core/io/file.h"

namespace lockstep::train {
namespace {

namespace nn = torch::nn;

nn::Sequential make_net(std::int64_t width = 3) {
  return nn::Sequential(nn::Linear(4, width), nn::BatchNorm1d(width), nn::Linear(width, 2));
}

/// The message of what `action` throws as an E; empty where it throws something else or nothing.
template <typename E, typename Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  } catch (...) {
  }
  return {};
}

class Weights : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory_.path())) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

 private:
  io::TempDirectory directory_;
};

TEST_F(Weights, RoundTripKeepsParametersAndBuffers) {
  auto net = make_net();
  net->forward(torch::rand({8, 4}));  // moves BatchNorm's buffers
  save_weights(*net, path("net.pt"));
  EXPECT_THAT(files(), ::testing::ElementsAre("net.pt"));

  auto other = make_net();
  const at::Tensor parameter = other->parameters()[0];
  load_weights(*other, path("net.pt"));
  EXPECT_TRUE(parameter.is_same(other->parameters()[0]));  // in place: an optimizer keeps its parameters
  const auto expected = net->named_parameters();
  for (const auto& item : other->named_parameters()) EXPECT_TRUE(torch::equal(item.value(), expected[item.key()]));
  const auto expected_buffers = net->named_buffers();
  for (const auto& item : other->named_buffers()) {
    EXPECT_TRUE(torch::equal(item.value(), expected_buffers[item.key()])) << item.key();
  }
}

TEST_F(Weights, ReadsWhatTorchSaveWrites) {
  auto net = make_net();
  torch::save(net, path("net.pt"));
  auto other = make_net();
  load_weights(*other, path("net.pt"));
  EXPECT_TRUE(torch::equal(net->parameters()[0], other->parameters()[0]));
  torch::load(other, path("net.pt"));
}

TEST_F(Weights, FailureLeavesTheOldFileAlone) {
  auto net = make_net();
  save_weights(*net, path("net.pt"));
  const auto size = std::filesystem::file_size(path("net.pt"));
  // The target of the rename is a directory that is not empty: the last step fails.
  std::filesystem::create_directories(path("taken/child"));
  EXPECT_THROW(save_weights(*net, path("taken")), SystemError);
  EXPECT_THROW(save_weights(*net, path("missing/net.pt")), SystemError);
  EXPECT_THAT(files(), ::testing::UnorderedElementsAre("net.pt", "taken"));
  EXPECT_EQ(std::filesystem::file_size(path("net.pt")), size);
}

TEST_F(Weights, AnotherModelIsNamedAndNothingIsCopied) {
  save_weights(*make_net(5), path("wide.pt"));
  auto net = make_net();
  const at::Tensor before = net->parameters()[0].detach().clone();
  const std::string shape = message_of<MismatchError>([&] { load_weights(*net, path("wide.pt")); });
  EXPECT_THAT(shape, ::testing::HasSubstr("0.weight is [5, 4]"));
  EXPECT_THAT(shape, ::testing::HasSubstr("[3, 4]"));
  EXPECT_TRUE(torch::equal(net->parameters()[0], before));

  save_weights(*nn::Sequential(nn::Linear(4, 3)), path("small.pt"));
  EXPECT_THAT(message_of<MismatchError>([&] { load_weights(*net, path("small.pt")); }),
              ::testing::HasSubstr("lacks 1.weight"));
  save_weights(*make_net(), path("net.pt"));
  nn::Sequential small(nn::Linear(4, 3));
  EXPECT_THAT(message_of<MismatchError>([&] { load_weights(*small, path("net.pt")); }),
              ::testing::HasSubstr("it holds 1."));
}

TEST_F(Weights, MissingAndCorruptFilesAreOneLine) {
  auto net = make_net();
  EXPECT_THAT(message_of<SystemError>([&] { load_weights(*net, path("none.pt")); }), ::testing::HasSubstr("none.pt"));

  save_weights(*net, path("net.pt"));
  std::filesystem::resize_file(path("net.pt"), std::filesystem::file_size(path("net.pt")) / 2);
  std::ofstream(path("text.pt")) << "no archive";
  std::ofstream(path("empty.pt"));
  for (const char* name : {"net.pt", "text.pt", "empty.pt"}) {
    const std::string message = message_of<CorruptionError>([&] { load_weights(*net, path(name)); });
    EXPECT_THAT(message, ::testing::HasSubstr(name));
    EXPECT_THAT(message, ::testing::Not(::testing::HasSubstr("\n")));
  }
}

TEST_F(Weights, RequireWritableNamesTheDirectory) {
  require_writable(path("new.pt"), "--output");
  EXPECT_THAT(message_of<UsageError>([&] { require_writable(path("none/new.pt"), "--output"); }),
              ::testing::AllOf(::testing::HasSubstr("--output"), ::testing::HasSubstr("no directory")));
  EXPECT_THROW(require_writable(path("."), "--output"), UsageError);
  EXPECT_THAT(files(), ::testing::IsEmpty());
}

}  // namespace
}  // namespace lockstep::train
