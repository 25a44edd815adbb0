#pragma once
// Internal: never included from a public header.

#include <string_view>

#include "lockstep/core/base/check.h"

namespace lockstep::base {

enum class LogLevel { kError = 0, kWarning = 1, kInfo = 2, kDebug = 3 };

/// The level asked for by LOCKSTEP_LOG (default warning).
LogLevel log_level();
/// Names this process in its log lines ("rank 3/8"); empty by default.
void set_log_identity(std::string_view identity);
/// One line to stderr in a single write: level letter, date, time, identity, text.
void log_line(LogLevel level, std::string_view text);

}  // namespace lockstep::base

/// LS_LOG(kInfo, "text ", value): evaluated only when the level is on. Nothing is logged per step by a healthy library.
#define LS_LOG(level, ...)                                                                               \
  do {                                                                                                   \
    if (::lockstep::base::LogLevel::level <= ::lockstep::base::log_level())                              \
      ::lockstep::base::log_line(::lockstep::base::LogLevel::level, ::lockstep::base::cat(__VA_ARGS__)); \
  } while (false)
