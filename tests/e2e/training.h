#pragma once
// Runs of lockstep-train on the shipped digits, and what they leave behind.

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "lockstep/core/io/file.h"
#include "tests/support/processes.h"

namespace lockstep::e2e {

using support::Arguments;

inline const std::string kDigits = std::string(LOCKSTEP_SOURCE_DIR) + "/data/digits";

inline const std::string kLearningRate = "0.2";
inline const std::string kMomentum = "0.9";

/// lockstep-train on `world` workers of one thread, `batch` samples each.
inline Arguments train_command(const std::string& model, int world, int batch, const Arguments& more = {}) {
  Arguments command = {
      LOCKSTEP_TRAIN, "--model",    model,        "--dataset", "idx",           "--data",       kDigits,
      "--threads",    "1",          "--momentum", kMomentum,   "--no-progress", "--batch-size", std::to_string(batch),
      "--lr",         kLearningRate};
  if (model == "mlp") command.insert(command.end(), {"--hidden", "96,96"});
  if (world > 1) command.insert(command.end(), {"--nproc-per-node", std::to_string(world)});
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

inline std::vector<double> losses_in(const std::string& metrics) {
  std::vector<double> losses;
  std::ifstream in(metrics);
  for (std::string line; std::getline(in, line);) {
    const auto record = nlohmann::json::parse(line);
    if (record["event"] == "step") losses.push_back(record["loss"]);
  }
  return losses;
}

/// Trains and returns the loss of each step.
inline std::vector<double> train(const io::TempDirectory& directory, const std::string& model, int world, int batch,
                                 const Arguments& more = {}) {
  const std::string metrics = directory.path() + "/metrics.jsonl";
  Arguments with_metrics = more;
  with_metrics.insert(with_metrics.end(), {"--metrics", metrics});
  support::ProcessOptions options;
  options.deadline = std::chrono::seconds(120);
  const auto end = support::run_program(train_command(model, world, batch, with_metrics), options);
  EXPECT_TRUE(end.ok()) << end.err;
  return losses_in(metrics);
}

inline double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

}  // namespace lockstep::e2e
