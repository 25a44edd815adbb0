#include "bench/steps/table.h"

#include <algorithm>
#include <iomanip>
#include <ostream>
#include <string>
#include <utility>

#include "bench/steps/trainer.h"

namespace lockstep::bench {
namespace {

/// Rows that differ by nothing but the round.
struct Group {
  std::string model;
  std::string peer;
  std::string mode;
  std::vector<Json> rows;

  bool has(const char* field) const { return rows.front().contains(field); }
  double middle(const char* field) const {
    std::vector<double> values;
    for (const Json& row : rows) values.push_back(row[field].get<double>());
    return median(std::move(values));
  }
};

/// In the order in which they were first seen.
std::vector<Group> grouped(const std::vector<Json>& rows) {
  std::vector<Group> groups;
  for (const Json& row : rows) {
    const auto same = [&](const Group& group) {
      return row["model"] == group.model && row["peer"] == group.peer && row["mode"] == group.mode;
    };
    auto found = std::ranges::find_if(groups, same);
    if (found == groups.end()) {
      groups.push_back({row["model"], row["peer"], row["mode"], {}});
      found = groups.end() - 1;
    }
    found->rows.push_back(row);
  }
  return groups;
}

void print_heading(std::ostream& out, const Json& row) {
  out << row["nproc"] << " ranks of " << row["threads"] << " thread(s), torch " << row["torch"].get<std::string>()
      << ", " << row["environment"].dump() << '\n';
}

void print_names(std::ostream& out, const Group& group) {
  out << std::left << std::setw(10) << group.model << std::setw(9) << group.peer << std::setw(9) << group.mode
      << std::right << std::fixed;
}

void print_steps(std::ostream& out, const std::vector<Group>& groups) {
  out << "model     peer     mode          params   ms/step   samples/s   wait ms  faults   share  / pytorch\n";
  for (const Group& group : groups) {
    print_names(out, group);
    out << std::setw(11) << group.rows.front()["params"].get<std::int64_t>() << std::setprecision(2) << std::setw(10)
        << group.middle("step_ms") << std::setprecision(1) << std::setw(12) << group.middle("samples_per_s");
    out << std::setprecision(2) << std::setw(10);
    if (group.has("wait_ms")) {
      out << group.middle("wait_ms");
    } else {
      out << "-";
    }
    out << std::setprecision(0) << std::setw(8) << group.middle("faults");
    if (group.has("share")) out << std::setprecision(3) << std::setw(8) << group.middle("share");
    if (group.has("vs_pytorch")) out << std::setprecision(2) << std::setw(11) << group.middle("vs_pytorch");
    out << '\n';
  }
}

void print_memory(std::ostream& out, const std::vector<Group>& groups) {
  constexpr double kMiB = 1 << 20;
  out << "model     peer     mode      params, MiB   used, MiB    more    resident    more\n";
  for (const Group& group : groups) {
    print_names(out, group);
    out << std::setprecision(2) << std::setw(12) << 4 * group.middle("params") / kMiB;
    for (const char* field : {"bytes", "resident_bytes"}) {
      const std::string extra = std::string("extra_") + field;
      out << std::setw(12) << group.middle(field) / kMiB << std::setw(8);
      if (group.has(extra.c_str())) {
        out << group.middle(extra.c_str()) / kMiB;
      } else {
        out << "";
      }
    }
    out << '\n';
  }
}

}  // namespace

void print_table(std::ostream& out, const std::vector<Json>& rows) {
  if (rows.empty()) return;
  if (rows.front()["event"] == "host_cost") {
    for (const Json& row : rows) {
      out << row["parameters"] << " parameters of one element, a backend that does nothing: DistributedDataParallel "
          << "costs " << row["ns_per_parameter"] << " ns a parameter and step (a step without it "
          << row["ns_per_parameter_without"] << " ns)\n";
    }
    return;
  }
  print_heading(out, rows.front());
  const std::vector<Group> groups = grouped(rows);
  rows.front()["event"] == "memory" ? print_memory(out, groups) : print_steps(out, groups);
}

}  // namespace lockstep::bench
