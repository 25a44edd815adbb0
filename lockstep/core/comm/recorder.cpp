#include "lockstep/core/comm/recorder.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/log.h"
#include "lockstep/core/io/file.h"

namespace lockstep {
namespace {

std::int64_t now_ms() noexcept {
  return std::chrono::floor<std::chrono::milliseconds>(coarse_now()).time_since_epoch().count();
}

}  // namespace

void Recorder::begin(Ring& ring, std::uint64_t number, std::string_view label) noexcept {
  Entry& entry = ring.at(number);
  entry.sequence = number;
  entry.started_ms = now_ms();
  entry.finished_ms = 0;
  entry.has_label = !label.empty();
  if (!entry.has_label) return;
  Label& kept = ring.labels[ring.place_of(number)];
  const std::size_t length = std::min(label.size(), kept.size() - 1);
  std::memcpy(kept.data(), label.data(), length);
  kept[length] = '\0';
}

void Recorder::end(Entry& entry, std::uint64_t number) noexcept {
  if (entry.sequence == number && entry.finished_ms == 0) entry.finished_ms = now_ms();
}

void Recorder::started(const Collective& collective) noexcept {
  Entry& entry = operations_.at(collective.sequence);
  entry.count = collective.count;
  entry.kind = collective.kind;
  entry.dtype = collective.dtype;
  entry.op = collective.op;
  entry.root = collective.root;
  begin(operations_, collective.sequence, collective.label);
}

void Recorder::finished(std::uint64_t sequence) noexcept { end(operations_.at(sequence), sequence); }

void Recorder::started(const Message& message) noexcept {
  Entry& entry = messages_.at(message.id);
  entry.count = message.count;
  entry.kind = message.kind;
  entry.dtype = message.dtype;
  entry.peer = message.peer;
  entry.tag = message.tag;
  begin(messages_, message.id, message.label);
}

void Recorder::finished_message(std::uint64_t id) noexcept { end(messages_.at(id), id); }

std::string Recorder::to_json(const std::string& group, const Backend& backend, const std::string& failure) const {
  nlohmann::json file = {{"group", group},
                         {"backend", backend.name()},
                         {"rank", backend.rank()},
                         {"world_size", backend.world_size()},
                         {"failure", failure},
                         {"written_ms", now_ms()},
                         {"operations", nlohmann::json::array()}};
  for (const Ring* ring : {&operations_, &messages_}) {
    std::vector<const Entry*> order;
    for (const Entry& entry : ring->entries) {
      if (entry.sequence != 0) order.push_back(&entry);
    }
    std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) { return a->sequence < b->sequence; });
    for (const Entry* entry : order) {
      nlohmann::json line = {{"sequence", entry->sequence},
                             {"kind", name_of(entry->kind)},
                             {"count", entry->count},
                             {"dtype", name_of(entry->dtype)},
                             {"label", entry->has_label ? ring->labels[ring->place_of(entry->sequence)].data() : ""},
                             {"started_ms", entry->started_ms},
                             {"finished_ms", entry->finished_ms}};
      if (ring == &messages_) {
        line["peer"] = entry->peer;
        line["tag"] = entry->tag;
      } else {
        line["op"] = name_of(entry->op);
        line["root"] = entry->root;
      }
      file["operations"].push_back(std::move(line));
    }
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
