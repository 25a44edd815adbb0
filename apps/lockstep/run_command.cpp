#include "apps/lockstep/run_command.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <deque>
#include <iostream>
#include <map>
#include <sstream>

#include <CLI/CLI.hpp>

#include "apps/lockstep/run_preview.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/cpus.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/io/socket.h"

namespace lockstep {
namespace {

constexpr int kDefaultPort = 29500;  // torchrun's

/// torchrun's flags that make no sense here, with the reason.
constexpr std::pair<std::string_view, std::string_view> kRefused[] = {
    {"--monitor-interval", "the end of a worker is seen at once; leave the flag out"},
    {"--rdzv-backend", "nodes meet in the store of node 0 (--rdzv-endpoint or --master-addr); leave the flag out"},
    {"--rdzv-conf", "nodes meet in the store of node 0; LOCKSTEP_INIT_TIMEOUT says how long to wait for them"},
    {"--start-method", "workers are programs, started directly; leave the flag out"},
    {"--module", "workers are programs, not Python modules; give `python3 -m MODULE` as the program"},
    {"-m", "workers are programs, not Python modules; give `python3 -m MODULE` as the program"},
    {"--run-path", "workers are programs, started directly; leave the flag out"},
    {"--local-addr", "node 0 listens on --master-addr; leave the flag out"},
    {"--signals-to-handle", "SIGINT, SIGTERM, SIGHUP and SIGQUIT reach all workers; leave the flag out"},
};

/// Shows one spelling of each flag; torchrun's other one, with underscores, is understood all the same.
class OneSpelling : public CLI::Formatter {
 public:
  std::string make_option_name(const CLI::Option* option, bool positional) const override {
    std::string out;
    for (const std::string& name : option->get_snames()) out += "-" + name + ",";
    for (const std::string& name : option->get_lnames()) {
      if (name.find('_') == std::string::npos) out += "--" + name + ",";
    }
    if (positional || out.empty()) return option->get_name(positional, true);
    out.pop_back();
    return out;
  }
  std::string make_option_opts(const CLI::Option* option) const override {
    return option->get_option_text().empty() ? "" : " " + option->get_option_text();
  }
};

/// The flags as text, and the parser that fills them in.
class RunFlags {
 public:
  RunFlags() : app_("Starts the workers of a job on this host and watches over them.", "lockstep run") {
    app_.formatter(std::make_shared<OneSpelling>());
    app_.get_formatter()->column_width(34);
    app_.footer(
        "The program and its arguments follow the flags, after -- or as the first word that is no flag:\n"
        "  lockstep run --nproc-per-node 2 -- ./my_train --epochs 3\n"
        "Each flag may also come from the environment, as with torchrun: PET_NPROC_PER_NODE=2.\n"
        "Exit code: 0, or that of the first worker that failed (128 + signal), 130 after Ctrl-C, 2 for a bad flag.");
    text("nproc-per-node", "workers on this host: a number, or auto (as many as CPUs may be used)", "1", "N");
    text("nnodes", "hosts of the job", "1", "N");
    text("node-rank", "this host among them, from 0", "0", "N");
    text("master-addr", "host of node 0", "", "HOST");
    text("master-port", "port of node 0: of the store where there are several nodes (default 29500), else MASTER_PORT",
         "", "PORT");
    text("rdzv-endpoint",
         "where the store of node 0 listens, if not at --master-addr:--master-port; an IPv6 address in brackets", "",
         "HOST[:PORT]");
    text("rdzv-id,run-id", "name of the job; also of its log directory", "", "NAME");
    flag("standalone", "one host and a free port; refuses flags that say otherwise");
    text("max-restarts", "how often all workers are started anew after a failure", "0", "N");
    text("role", "ROLE_NAME of the workers", "default", "NAME");
    text("log-dir",
         "write DIR/RUN_ID/attempt_K/LOCAL_RANK/{stdout,stderr}.log (of several nodes DIR/RUN_ID/node_N/attempt_K/...; "
         "both streams, unless -r or -t choose)",
         "", "DIR");
    text("redirects", "streams that go to files only: 0 none, 1 stdout, 2 stderr, 3 both; or per local rank 0:1,1:3",
         "", "WHICH", "-r");
    text("tee", "streams that go to files and to the terminal, in the same notation", "", "WHICH", "-t");
    text("local-ranks-filter", "show the output of these local ranks only, as in 0,2", "", "RANKS");
    flag("no-prefix", "no [rank] before the lines; workers get the terminal itself where there is one");
    text("grace-period", "seconds from asking workers to end until they are killed", "30", "SECONDS");
    text("cpu-bind", "auto: each worker keeps to its share of the CPUs; none (default from LOCKSTEP_AFFINITY)", "",
         "HOW");
    flag("quiet", "do not say at the start how workers are laid out");
    text("token-file",
         "file with the job's secret, for its owner alone (default: LOCKSTEP_JOB_TOKEN, or random on one host)", "",
         "PATH");
    flag("dry-run", "start nothing: print who would run where, with what environment, and what is in the way");
    flag("json", "with --dry-run: print it as one JSON object");
    flag("no-python", "accepted for torchrun's sake: programs are always run directly");
  }

  void parse(const std::vector<std::string>& arguments) {
    std::vector<std::string> flags = split(arguments);
    std::reverse(flags.begin(), flags.end());  // as CLI11 wants them
    app_.parse(std::move(flags));
  }

  std::string help() const { return app_.help(); }
  const std::vector<std::string>& command() const { return command_; }
  bool given(const std::string& name) const { return app_.get_option("--" + name)->count() > 0; }

  /// Of a switch: --x, --x=true, PET_X=1.
  bool on(const std::string& name) const {
    const CLI::Option* const option = app_.get_option("--" + name);
    if (option->count() == 0) return false;
    bool value = false;
    try {
      option->results(value);
    } catch (const CLI::ConversionError&) {
      throw UsageError(base::cat("--", name, " '", option->results().back(), "': expected true or false"));
    }
    return value;
  }

  const std::string& operator[](const std::string& name) const { return *values_.at(app_.get_option("--" + name)); }

  int number(const std::string& name, int least, int most = 1'000'000) const {
    const std::string& value = (*this)[name];
    int out = 0;
    const auto [stop, error] = std::from_chars(value.data(), value.data() + value.size(), out);
    LS_REQUIRE(error == std::errc{} && stop == value.data() + value.size() && out >= least && out <= most, "--", name,
               " '", value, "': expected a whole number from ", least, " to ", most);
    return out;
  }

 private:
  /// "--a-b,--a_b" for each of the names "a-b,c", and the first name in PET_A_B.
  static std::string spellings(const std::string& names, std::string& variable) {
    std::string out;
    std::istringstream in(names);
    for (std::string name; std::getline(in, name, ',');) {
      std::string other = name;
      std::replace(other.begin(), other.end(), '-', '_');
      out += (out.empty() ? "--" : ",--") + name + (other != name ? ",--" + other : "");
      if (!variable.empty()) continue;
      variable = "PET_";
      for (const char c : other) variable += static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
    }
    return out;
  }

  void text(const std::string& names, const std::string& meaning, const std::string& fallback, const char* what,
            const std::string& letter = "") {
    std::string variable;
    const std::string all = (letter.empty() ? "" : letter + ",") + spellings(names, variable);
    std::string& value = storage_.emplace_back(fallback);
    CLI::Option* const option = app_.add_option(all, value, meaning);
    option->envname(variable)->option_text(std::string(what) + (fallback.empty() ? "" : " [" + fallback + "]"));
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    values_[option] = &value;
  }

  void flag(const std::string& name, const std::string& meaning) {
    std::string variable;
    const std::string all = spellings(name, variable);
    app_.add_flag(all, meaning)->envname(variable);
  }

  /// The flags before the program; what follows is the worker's own, whatever it looks like.
  std::vector<std::string> split(const std::vector<std::string>& arguments) {
    std::vector<std::string> flags;
    std::size_t i = 0;
    while (i < arguments.size() && arguments[i].starts_with('-') && arguments[i] != "--") {
      const std::string& word = arguments[i++];
      refuse(word);
      flags.push_back(word);
      const bool is_long = word.starts_with("--");
      const CLI::Option* const option =
          app_.get_option_no_throw(is_long ? word.substr(0, word.find('=')) : word.substr(0, 2));
      const bool has_value = is_long ? word.find('=') != std::string::npos : word.size() > 2;
      if (values_.contains(option) && !has_value && i < arguments.size()) {
        // An equals sign, so that a value like -1 is taken for one.
        if (is_long) {
          flags.back() += "=" + arguments[i++];
        } else {
          flags.push_back(arguments[i++]);
        }
      }
    }
    if (i < arguments.size() && arguments[i] == "--") ++i;
    command_.assign(arguments.begin() + static_cast<std::ptrdiff_t>(i), arguments.end());
    return flags;
  }

  static void refuse(const std::string& word) {
    std::string name = word.substr(0, word.find('='));
    std::replace(name.begin(), name.end(), '_', '-');
    for (const auto& [refused, reason] : kRefused) {
      LS_REQUIRE(name != refused, word.substr(0, word.find('=')), " is not taken: ", reason);
    }
  }

  CLI::App app_;
  std::deque<std::string> storage_;                    // stable addresses
  std::map<const CLI::Option*, std::string*> values_;  // of the flags that take one
  std::vector<std::string> command_;
};

int parse_nproc(const RunFlags& flags) {
  const std::string& value = flags["nproc-per-node"];
  if (value == "auto" || value == "cpu") return base::read_cpu_budget().usable;
  LS_REQUIRE(value != "gpu", "--nproc-per-node gpu: this build has no GPU backend; expected a number, auto or cpu");
  LS_REQUIRE(!value.empty() && value.find_first_not_of("0123456789") == std::string::npos, "--nproc-per-node '", value,
             "': expected a number, auto or cpu");
  return flags.number("nproc-per-node", 1, 4096);
}

int parse_nnodes(const RunFlags& flags) {
  LS_REQUIRE(flags["nnodes"].find(':') == std::string::npos, "--nnodes '", flags["nnodes"],
             "': a job that grows and shrinks (MIN:MAX) is not supported yet; give one number");
  return flags.number("nnodes", 1, 100'000);
}

std::vector<int> parse_ranks(const std::string& text) {
  std::vector<int> out;
  std::istringstream in(text);
  for (std::string word; std::getline(in, word, ',');) {
    LS_REQUIRE(!word.empty() && word.size() < 6 && word.find_first_not_of("0123456789") == std::string::npos,
               "--local-ranks-filter '", text, "': expected local ranks as in 0,2");
    const int rank = std::stoi(word);
    if (std::find(out.begin(), out.end(), rank) == out.end()) out.push_back(rank);
  }
  return out;
}

launch::StreamChoice parse_streams(const RunFlags& flags, const std::string& name) {
  if (flags[name].empty()) return {};
  try {
    return launch::parse_stream_choice(flags[name]);
  } catch (const UsageError& error) {
    throw UsageError("--" + name + " " + error.what());
  }
}

Duration parse_seconds(const RunFlags& flags, const std::string& name) {
  const std::string& text = flags[name];
  double value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  LS_REQUIRE(error == std::errc{} && stop == text.data() + text.size() && value >= 0 && value <= 1e6, "--", name, " '",
             text, "': expected seconds from 0 to 1e6");
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(value));
}

bool parse_cpu_bind(const RunFlags& flags) {
  const bool given = !flags["cpu-bind"].empty();
  const std::string how = given ? flags["cpu-bind"] : environment_string("LOCKSTEP_AFFINITY").value_or("auto");
  LS_REQUIRE(how == "auto" || how == "none", given ? "--cpu-bind" : "environment variable LOCKSTEP_AFFINITY", " '", how,
             "': expected auto or none");
  return how == "auto";
}

/// Where the store listens, and what the workers are told of the master.
void parse_addresses(const RunFlags& flags, launch::JobOptions& options) {
  if (flags.on("standalone")) {
    LS_REQUIRE(options.nnodes == 1, "--standalone is for one node, not --nnodes ", options.nnodes);
    for (const char* other : {"master-addr", "master-port", "rdzv-endpoint"}) {
      LS_REQUIRE(flags[other].empty(), "--standalone finds its own address and port; drop it or --", other);
    }
  }
  options.master_address = flags["master-addr"];
  if (!flags["master-port"].empty()) options.master_port = flags.number("master-port", 0, 65535);
  const std::string& endpoint = flags["rdzv-endpoint"];
  if (!endpoint.empty()) {
    const auto split = io::split_host_port(endpoint, kDefaultPort);
    LS_REQUIRE(split, "--rdzv-endpoint '", endpoint, "': expected HOST or HOST:PORT, an IPv6 address in brackets");
    options.endpoint_host = split->host;
    options.endpoint_port = split->port;
  } else if (options.nnodes > 1) {
    options.endpoint_port = flags["master-port"].empty() ? kDefaultPort : options.master_port;
  }
}

/// --dry-run; returns the exit code.
int preview(const RunRequest& request) {
  const launch::JobPreview preview = launch::preview_job(request.job);
  const std::vector<std::string> problems = launch::find_problems(request.job);
  if (request.json) {
    std::cout << preview_to_json(request.job, preview, problems) << std::endl;
  } else {
    print_preview(std::cout, request.job, preview);
    std::cout.flush();
  }
  for (const std::string& problem : problems) std::cerr << "lockstep run: " << problem << '\n';
  return problems.empty() ? 0 : 2;
}

}  // namespace

RunRequest parse_run_flags(const std::vector<std::string>& arguments) {
  RunRequest request;
  RunFlags flags;
  try {
    flags.parse(arguments);
  } catch (const CLI::CallForHelp&) {
    request.help = flags.help();
    return request;
  } catch (const CLI::ParseError& error) {
    throw UsageError(error.what());
  }
  launch::JobOptions& options = request.job;
  options.nnodes = parse_nnodes(flags);
  options.node_rank = flags.number("node-rank", 0);
  LS_REQUIRE(options.nnodes == 1 || flags.given("node-rank"), "--nnodes ", options.nnodes,
             " needs --node-rank on each node, from 0 to ", options.nnodes - 1);
  options.nproc_per_node = parse_nproc(flags);
  parse_addresses(flags, options);
  options.token_file = flags["token-file"];
  options.run_id = flags["rdzv-id"];
  options.role = flags["role"];
  options.max_restarts = flags.number("max-restarts", 0);
  options.log_dir = flags["log-dir"];
  options.redirects = parse_streams(flags, "redirects");
  options.tee = parse_streams(flags, "tee");
  options.shown = parse_ranks(flags["local-ranks-filter"]);
  options.prefix = !flags.on("no-prefix");
  options.grace = parse_seconds(flags, "grace-period");
  if (const auto timeout = environment_seconds("LOCKSTEP_INIT_TIMEOUT")) {
    options.join_timeout = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(*timeout));
  }
  options.pin = parse_cpu_bind(flags);
  options.quiet = flags.on("quiet");
  options.command = flags.command();
  request.dry_run = flags.on("dry-run");
  request.json = flags.on("json");
  LS_REQUIRE(request.dry_run || !request.json, "--json goes with --dry-run");
  if (request.dry_run) {
    launch::validate_flags(options);
  } else {
    launch::validate(options);
  }
  return request;
}

int run_command(const std::vector<std::string>& arguments) {
  try {
    const RunRequest request = parse_run_flags(arguments);
    if (!request.help.empty()) {
      std::cout << request.help;
      return 0;
    }
    return request.dry_run ? preview(request) : launch::run_job(request.job);
  } catch (const UsageError& error) {
    std::cerr << "lockstep run: " << error.what() << " (see lockstep run --help)\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "lockstep run: " << error.what() << "\n";
    return 1;
  }
}

}  // namespace lockstep
