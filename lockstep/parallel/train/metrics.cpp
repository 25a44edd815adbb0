#include "lockstep/parallel/train/metrics.h"

#include <cerrno>
#include <cmath>
#include <functional>

#include <nlohmann/json.hpp>

#include "lockstep/core/base/check.h"

namespace lockstep::train {
namespace {

using Json = nlohmann::ordered_json;

/// Calls `visit` with each line's object.
void for_each_line(const std::string& file, const std::function<void(const Json&, std::int64_t line)>& visit) {
  std::ifstream in(file);
  if (!in) throw SystemError(base::cat("cannot open metrics file ", file), errno);
  std::string text;
  std::uint64_t offset = 0;
  for (std::int64_t line = 1; std::getline(in, text); ++line) {
    const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("event") || !json["event"].is_string()) {
      throw CorruptionError(base::cat("metrics file ", file, ":", line, ": expected a JSON object with an \"event\""),
                            file, offset);
    }
    visit(json, line);
    offset += text.size() + 1;
  }
}

double milliseconds(double seconds) { return seconds * 1e3; }

}  // namespace

MetricsWriter::MetricsWriter(std::string file) : file_(std::move(file)), out_(file_, std::ios::trunc) {
  if (!out_) throw SystemError(base::cat("cannot write metrics file ", file_), errno);
}

void MetricsWriter::step(const StepRecord& record) {
  const double rate = record.step_seconds > 0 ? static_cast<double>(record.samples) / record.step_seconds : 0;
  line(Json{{"event", "step"},
            {"step", record.step},
            {"epoch", record.epoch},
            {"loss", record.loss},
            {"samples", record.samples},
            {"step_ms", milliseconds(record.step_seconds)},
            {"data_wait_ms", milliseconds(record.data_wait_seconds)},
            {"comm_wait_ms", milliseconds(record.comm_wait_seconds)},
            {"samples_per_s", rate}}
           .dump());
}

void MetricsWriter::epoch(const EpochRecord& record) {
  Json json{{"event", "epoch"},
            {"epoch", record.epoch},
            {"step", record.step},
            {"train_loss", record.train_loss},
            {"seconds", record.seconds}};
  if (record.test) {
    json["test_loss"] = record.test->mean_loss;
    json["test_accuracy"] = record.test->accuracy();
    json["test_correct"] = record.test->correct;
    json["test_total"] = record.test->total;
  }
  line(json.dump());
}

void MetricsWriter::line(std::string_view json) {
  out_ << json << '\n' << std::flush;
  if (!out_) throw SystemError(base::cat("cannot write metrics file ", file_), errno);
}

std::vector<double> read_losses(const std::string& file) {
  std::vector<double> losses;
  for_each_line(file, [&](const Json& json, std::int64_t line) {
    if (json["event"] != "step") return;
    const auto loss = json.find("loss");
    const auto step = json.find("step");
    if (loss == json.end() || !loss->is_number() || step == json.end() || *step != losses.size() + 1) {
      throw CorruptionError(
          base::cat("metrics file ", file, ":", line, ": expected step ", losses.size() + 1, " with its loss"), file);
    }
    losses.push_back(loss->get<double>());
  });
  return losses;
}

std::string read_summary(const std::string& file) {
  std::string summary;
  for_each_line(file, [&](const Json& json, std::int64_t) {
    if (json["event"] == "summary") summary = json.dump();
  });
  if (summary.empty()) {
    throw CorruptionError(base::cat("metrics file ", file, " has no summary: the run that wrote it did not end well"),
                          file);
  }
  return summary;
}

LossDifference compare_losses(const std::vector<double>& main, const std::vector<double>& control) {
  LS_REQUIRE(main.size() == control.size(), "the runs took ", main.size(), " and ", control.size(),
             " steps: compare runs of the same global batch, data and epochs");
  LossDifference difference;
  difference.steps = static_cast<std::int64_t>(main.size());
  for (std::size_t i = 0; i < main.size(); ++i) {
    const double distance = std::abs(main[i] - control[i]);
    if (i == 0 || distance > difference.largest) {
      difference.largest = distance;
      difference.worst_step = static_cast<std::int64_t>(i) + 1;
    }
  }
  return difference;
}

}  // namespace lockstep::train
