#include "lockstep/core/comm/recorder.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/log.h"
#include "lockstep/core/io/file.h"

namespace lockstep {
namespace {

std::int64_t now_ms() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

}  // namespace

void Recorder::started(const Collective& collective) noexcept {
  Entry& entry = entries_[collective.sequence % entries_.size()];
  entry.sequence = collective.sequence;
  entry.count = collective.count;
  entry.started_ms = now_ms();
  entry.finished_ms = 0;
  entry.kind = collective.kind;
  entry.dtype = collective.dtype;
  entry.op = collective.op;
  entry.root = collective.root;
  const std::size_t length = std::min(collective.label.size(), entry.label.size() - 1);
  if (length != 0) std::memcpy(entry.label.data(), collective.label.data(), length);
  entry.label[length] = '\0';
}

void Recorder::finished(std::uint64_t sequence) noexcept {
  Entry& entry = entries_[sequence % entries_.size()];
  if (entry.sequence == sequence && entry.finished_ms == 0) entry.finished_ms = now_ms();
}

std::string Recorder::to_json(const std::string& group, const Backend& backend, const std::string& failure) const {
  std::vector<const Entry*> order;
  for (const Entry& entry : entries_) {
    if (entry.sequence != 0) order.push_back(&entry);
  }
  std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) { return a->sequence < b->sequence; });
  nlohmann::json file = {{"group", group},
                         {"backend", backend.name()},
                         {"rank", backend.rank()},
                         {"world_size", backend.world_size()},
                         {"failure", failure},
                         {"written_ms", now_ms()},
                         {"operations", nlohmann::json::array()}};
  for (const Entry* entry : order) {
    file["operations"].push_back({{"sequence", entry->sequence},
                                  {"kind", name_of(entry->kind)},
                                  {"count", entry->count},
                                  {"dtype", name_of(entry->dtype)},
                                  {"op", name_of(entry->op)},
                                  {"root", entry->root},
                                  {"label", entry->label.data()},
                                  {"started_ms", entry->started_ms},
                                  {"finished_ms", entry->finished_ms}});
  }
  return file.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

void Recorder::dump(const std::string& directory, const std::string& group, const Backend& backend,
                    const std::string& failure) const noexcept {
  try {
    std::filesystem::create_directories(directory);
    std::string name = group;
    std::replace(name.begin(), name.end(), '/', '_');
    const std::string path = base::cat(directory, "/flight_", name, "_rank", backend.rank(), ".json");
    io::write_file_atomic(path, to_json(group, backend, failure));
  } catch (const std::exception& error) {
    // The failure itself is on its way to the caller; that its record could not be kept must not replace it.
    LS_LOG(kWarning, "the flight recorder could not write to ", directory, ": ", error.what());
  }
}

}  // namespace lockstep
