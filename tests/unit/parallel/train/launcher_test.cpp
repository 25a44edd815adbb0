#include "apps/lockstep-train/launcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"

namespace lockstep::app {
namespace {

using ::testing::ElementsAre;

RankEnvironment launched(int local_world_size) {
  RankEnvironment environment;
  environment.world_size = environment.local_world_size = local_world_size;
  environment.source = "torchrun";
  return environment;
}

TEST(MustLaunch, OnlyWhenNobodyStartedWorkersYet) {
  RankEnvironment alone;
  alone.source = "none";
  EXPECT_FALSE(must_launch(0, alone));
  EXPECT_FALSE(must_launch(1, alone));
  EXPECT_TRUE(must_launch(2, alone));
  EXPECT_FALSE(must_launch(0, launched(3)));
  EXPECT_FALSE(must_launch(3, launched(3)));
  EXPECT_THROW(must_launch(2, launched(3)), UsageError);
  EXPECT_THROW(must_launch(1, launched(2)), UsageError);
}

TEST(LaunchCommand, PassesEverythingButTheFlag) {
  Options options;
  options.nproc_per_node = 2;
  EXPECT_THAT(
      launch_command("lockstep", options, "prog", {"--lr", "1", "--nproc-per-node", "2", "--json"}),
      ElementsAre("lockstep", "run", "--nproc-per-node", "2", "--no-prefix", "--", "prog", "--lr", "1", "--json"));
  EXPECT_THAT(launch_command("lockstep", options, "prog", {"--nproc-per-node=4"}),
              ElementsAre("lockstep", "run", "--nproc-per-node", "2", "--no-prefix", "--", "prog"));
  options.no_progress = true;
  EXPECT_THAT(launch_command("lockstep", options, "prog", {"--config", "c.toml"}),
              ElementsAre("lockstep", "run", "--nproc-per-node", "2", "--no-prefix", "--quiet", "--", "prog",
                          "--config", "c.toml"));
}

}  // namespace
}  // namespace lockstep::app
