#include "apps/lockstep/bench/report.h"

#include <iomanip>
#include <ostream>
#include <sstream>

#include <nlohmann/json.hpp>

namespace lockstep::bench {
namespace {

using Json = nlohmann::ordered_json;

/// GB/s of the whole vector per time of one call.
double algorithm_bandwidth(const SizeResult& result) {
  return static_cast<double>(result.size.bytes) / result.p50_us * 1e-3;
}

std::string fixed(double value, int digits) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(digits) << value;
  return text.str();
}

}  // namespace

std::string title_of(const RowContext& context) {
  const SweepOptions& options = context.options;
  std::ostringstream text;
  text << context.peer << ' ' << bench_name(options.op);
  if (reduces(options.op)) text << ' ' << name_of(options.reduce_op);
  text << ", " << name_of(options.dtype) << ", " << options.world_size << " ranks, " << context.memory << " memory";
  return text.str();
}

double rounded(double value) {
  std::ostringstream text;
  text << std::setprecision(4) << value;
  return std::stod(text.str());
}

std::string to_json(const RowContext& context, const SizeResult& result, std::optional<double> model_us) {
  const SweepOptions& options = context.options;
  const double bandwidth = algorithm_bandwidth(result);
  Json row = {{"event", "result"},          {"op", bench_name(options.op)},   {"peer", context.peer},
              {"memory", context.memory},   {"nproc", options.world_size},    {"bytes", result.size.bytes},
              {"count", result.size.count}, {"dtype", name_of(options.dtype)}};
  if (reduces(options.op)) row["reduce_op"] = name_of(options.reduce_op);
  row["fresh"] = options.fresh;
  row["min_us"] = rounded(result.min_us);
  row["p50_us"] = rounded(result.p50_us);
  row["p99_us"] = rounded(result.p99_us);
  row["algbw_GBps"] = rounded(bandwidth);
  row["busbw_GBps"] = rounded(bandwidth * bus_factor(options.op, options.world_size));
  row["samples"] = result.samples;
  row["wrong"] = result.wrong;
  if (model_us) {
    row["limit_us"] = rounded(*model_us);
    row["times_limit"] = rounded(result.p50_us / *model_us);
  }
  return row.dump();
}

std::string to_json(const MachineLimits& before, const MachineLimits& after) {
  Json row = {{"event", "limits"}, {"cpu", cpu_model()}, {"measured", before.measured}};
  if (!before.measured) return row.dump();
  row["handoff_ns"] = rounded(before.handoff_ns);
  row["handoff_ns_after"] = rounded(after.handoff_ns);
  row["steady"] = handoff_change(before, after) <= kSteadyChange;
  row["copy_GBps"] = {{"one", rounded(before.copy_one)}, {"both", rounded(before.copy_both)}};
  row["add_GBps"] = {{"one", rounded(before.add_one)}, {"both", rounded(before.add_both)}};
  for (const RemoteRate& rate : before.remote) {
    row["remote"].push_back(
        {{"bytes", rate.bytes}, {"add_GBps", rounded(rate.add)}, {"write_GBps", rounded(rate.write)}});
  }
  row["cache_bytes"] = before.cache_bytes;
  return row.dump();
}

void print_table(std::ostream& out, const RowContext& context, const std::vector<SizeResult>& results,
                 const MachineLimits& limits) {
  const SweepOptions& options = context.options;
  const MemoryKind memory = context.memory == "user" ? MemoryKind::kUser : MemoryKind::kBackend;
  out << title_of(context) << ", " << (options.fresh ? "fresh data" : "unchanged data") << '\n';
  out << std::setw(10) << "bytes" << std::setw(12) << "count" << std::setw(12) << "min us" << std::setw(12) << "p50 us"
      << std::setw(12) << "p99 us" << std::setw(9) << "algbw" << std::setw(9) << "busbw" << std::setw(9) << "x limit"
      << std::setw(9) << "samples" << std::setw(7) << "wrong" << '\n';
  for (const SizeResult& result : results) {
    const double bandwidth = algorithm_bandwidth(result);
    const auto bound = model_us(options, memory, result.size.bytes, limits);
    out << std::setw(10) << format_bytes(result.size.bytes) << std::setw(12) << result.size.count << std::setw(12)
        << fixed(result.min_us, 2) << std::setw(12) << fixed(result.p50_us, 2) << std::setw(12)
        << fixed(result.p99_us, 2) << std::setw(9) << fixed(bandwidth, 2) << std::setw(9)
        << fixed(bandwidth * bus_factor(options.op, options.world_size), 2) << std::setw(9)
        << (bound ? fixed(result.p50_us / *bound, 2) : "-") << std::setw(9) << result.samples << std::setw(7)
        << result.wrong << '\n';
  }
}

void print_limits(std::ostream& out, const MachineLimits& before, const MachineLimits& after) {
  out << "machine: " << cpu_model() << '\n';
  if (!before.measured) {
    out << "limits:  not measured, since this process may use one CPU only\n";
    return;
  }
  out << "limits:  hand-off " << fixed(before.handoff_ns, 0) << " ns before, " << fixed(after.handoff_ns, 0)
      << " ns after; GB/s of memory-sized streams, one core / both: copy " << fixed(before.copy_one, 1) << " / "
      << fixed(before.copy_both, 1) << ", add " << fixed(before.add_one, 1) << " / " << fixed(before.add_both, 1)
      << '\n';
  out << "         GB/s across cores, add (write):";
  for (const RemoteRate& rate : before.remote) {
    out << "  " << format_bytes(rate.bytes) << ' ' << fixed(rate.add, 1) << " (" << fixed(rate.write, 1) << ')';
  }
  out << '\n';
}

}  // namespace lockstep::bench
