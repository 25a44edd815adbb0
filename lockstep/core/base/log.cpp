#include "lockstep/core/base/log.h"

#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <ctime>
#include <mutex>
#include <string>

#include "lockstep/core/base/environment.h"

namespace lockstep::base {
namespace {

constexpr std::array<std::string_view, 4> kLevelNames = {"error", "warning", "info", "debug"};
constexpr std::array<char, 4> kLevelLetters = {'E', 'W', 'I', 'D'};

struct Identity {
  std::mutex mutex;
  std::string text;
};

// Never destroyed: a line may be logged by a thread that outlives main.
Identity& identity() {
  static auto* const instance = new Identity;
  return *instance;
}

void write_all(const std::string& line) noexcept {
  std::size_t done = 0;
  while (done < line.size()) {
    const ssize_t n = ::write(STDERR_FILENO, line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // nobody is left to tell
    done += static_cast<std::size_t>(n);
  }
}

// A level that is no level must not stop a job: it counts as the default, and one line says so.
LogLevel read_level() {
  const auto value = environment_string("LOCKSTEP_LOG");
  if (!value) return LogLevel::kWarning;
  for (std::size_t i = 0; i < kLevelNames.size(); ++i) {
    if (kLevelNames[i] == *value) return static_cast<LogLevel>(i);
  }
  log_line(LogLevel::kWarning,
           cat("LOCKSTEP_LOG='", *value, "' is not one of: error warning info debug; using warning"));
  return LogLevel::kWarning;
}

}  // namespace

LogLevel log_level() {
  static const LogLevel level = read_level();
  return level;
}

void set_log_identity(std::string_view text) {
  Identity& who = identity();
  const std::lock_guard lock(who.mutex);
  who.text.assign(text);
}

void log_line(LogLevel level, std::string_view text) {
  timeval now{};
  ::gettimeofday(&now, nullptr);
  tm local{};
  ::localtime_r(&now.tv_sec, &local);
  std::array<char, 64> stamp{};
  std::snprintf(stamp.data(), stamp.size(), "%c%02d%02d %02d:%02d:%02d.%06ld ",
                kLevelLetters[static_cast<std::size_t>(level)], local.tm_mon + 1, local.tm_mday, local.tm_hour,
                local.tm_min, local.tm_sec, static_cast<long>(now.tv_usec));
  std::string line = stamp.data();
  {
    Identity& who = identity();
    const std::lock_guard lock(who.mutex);
    if (!who.text.empty()) line += "[" + who.text + "] ";
  }
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  for (const char c : text) line += c == '\n' ? ' ' : c;
  line += '\n';
  write_all(line);
}

}  // namespace lockstep::base
