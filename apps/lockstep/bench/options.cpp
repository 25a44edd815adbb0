#include "apps/lockstep/bench/options.h"

#include <array>
#include <charconv>
#include <functional>
#include <limits>

#include <CLI/CLI.hpp>

#include "lockstep/core/base/check.h"

namespace lockstep::bench {
namespace {

constexpr std::array kOps = {OpKind::kAllReduce, OpKind::kReduce,  OpKind::kReduceScatter, OpKind::kAllGather,
                             OpKind::kGather,    OpKind::kScatter, OpKind::kBroadcast,     OpKind::kAllToAll,
                             OpKind::kBarrier,   OpKind::kSend};

/// An option whose text goes through `parse`; what it throws becomes an error of this flag.
CLI::Option* add_parsed(CLI::App& app, const std::string& flag, const std::string& meaning,
                        std::function<void(const std::string&)> parse) {
  return app.add_option_function<std::string>(
      flag,
      [flag, parse = std::move(parse)](const std::string& text) {
        try {
          parse(text);
        } catch (const UsageError& error) {
          throw CLI::ValidationError(flag, error.what());
        }
      },
      meaning);
}

}  // namespace

void add_sweep_flags(CLI::App& app, SweepOptions& options) {
  app.add_option("--nproc", options.world_size, "ranks, each a process of this host")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  add_parsed(app, "--min-bytes", "smallest message (4, 64K, 256M)", [&options](const std::string& text) {
    options.min_bytes = parse_bytes(text);
  })->default_str("4");
  add_parsed(app, "--max-bytes", "largest message", [&options](const std::string& text) {
    options.max_bytes = parse_bytes(text);
  })->default_str("256M");
  app.add_option("--step-factor", options.step_factor, "each size is so many times the one before")
      ->check(CLI::Range(2, 1024))
      ->capture_default_str();
  add_parsed(app, "--dtype", "f32 f64 f16 bf16 i8 u8 i32 i64 bool", [&options](const std::string& text) {
    options.dtype = parse_dtype(text);
  })->default_str("f32");
  add_parsed(app, "--op", "sum avg product min max band bor bxor", [&options](const std::string& text) {
    options.reduce_op = parse_reduce_op(text);
  })->default_str("sum");
  app.add_flag("--fresh,!--no-fresh", options.fresh,
               "rewrite the data and pass a barrier before each timed call, as with new gradients (default)");
  app.add_option("--seconds-per-size", options.seconds_per_size, "time to spend on each size")
      ->check(CLI::Range(0.001, 60.0))
      ->capture_default_str();
  app.add_flag("--json", options.json, "one JSON object a line");
}

OpKind parse_op_kind(std::string_view name) {
  for (const OpKind op : kOps) {
    if (bench_name(op) == name) return op;
  }
  throw UsageError(base::cat("unknown operation '", name, "'; known are ", known_operations()));
}

std::string_view bench_name(OpKind op) noexcept { return op == OpKind::kSend ? "sendrecv" : name_of(op); }

std::string known_operations() {
  std::string known;
  for (const OpKind op : kOps) {
    known += known.empty() ? "" : ", ";
    known += bench_name(op);
  }
  return known;
}

std::size_t parse_bytes(std::string_view text) {
  std::size_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  LS_REQUIRE(error == std::errc() && end != text.data(), "'", text, "' is no size; expected e.g. 4, 64K, 256M, 1G");
  int shift = 0;
  if (!unit.empty()) {
    const std::size_t place = std::string_view("KMG").find(unit.front());
    const std::string_view rest = unit.substr(1);
    LS_REQUIRE(place != std::string_view::npos && (rest.empty() || rest == "iB"), "'", text,
               "' is no size; expected e.g. 4, 64K, 256M, 1G");
    shift = 10 * (static_cast<int>(place) + 1);
  }
  LS_REQUIRE(number <= std::numeric_limits<std::size_t>::max() >> (shift + 1), "'", text, "' is too large");
  return number << shift;
}

std::string format_bytes(std::size_t bytes) {
  constexpr std::array<const char*, 3> kUnits = {" GiB", " MiB", " KiB"};
  int shift = 30;
  for (const char* unit : kUnits) {
    if (bytes >> shift != 0 && bytes % (std::size_t{1} << shift) == 0) return std::to_string(bytes >> shift) + unit;
    shift -= 10;
  }
  return std::to_string(bytes);
}

void validate(const SweepOptions& options) {
  LS_REQUIRE(options.min_bytes > 0, "--min-bytes must be at least 1");
  LS_REQUIRE(options.min_bytes <= options.max_bytes, "--min-bytes ", format_bytes(options.min_bytes),
             " is larger than --max-bytes ", format_bytes(options.max_bytes));
  LS_REQUIRE(is_supported(options.reduce_op, options.dtype), "--op ", name_of(options.reduce_op),
             " is not defined for --dtype ", name_of(options.dtype));
  LS_REQUIRE(options.reduce_op != ReduceOp::kPreMulSum, "--op ", name_of(options.reduce_op),
             " is not measured: it takes a factor from each rank; --op avg multiplies as well");
}

}  // namespace lockstep::bench
