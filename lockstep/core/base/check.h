#pragma once
// Internal: never included from a public header.

#include <cerrno>
#include <sstream>
#include <string>
#include <utility>

#include "lockstep/core/base/error.h"

namespace lockstep::base {

/// Joins its arguments into one string, as operator<< prints them.
template <typename... Args>
std::string cat(Args&&... args) {
  std::ostringstream out;
  (out << ... << std::forward<Args>(args));
  return std::move(out).str();
}

[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& message);

}  // namespace lockstep::base

/// Our own invariant; stays on in release builds. Throws InternalError.
#define LS_CHECK(condition, ...)                                                                          \
  do {                                                                                                    \
    if (!(condition)) [[unlikely]]                                                                        \
      ::lockstep::base::check_failed(__FILE__, __LINE__, #condition, ::lockstep::base::cat(__VA_ARGS__)); \
  } while (false)

/// The caller's obligation. Throws UsageError with the joined arguments as its text.
#define LS_REQUIRE(condition, ...)                                      \
  do {                                                                  \
    if (!(condition)) [[unlikely]]                                      \
      throw ::lockstep::UsageError(::lockstep::base::cat(__VA_ARGS__)); \
  } while (false)

/// Evaluates a system call until it is not interrupted; throws SystemError on -1. The rest of the arguments say what
/// was being done to which object. Yields the call's result.
#define LS_SYSCALL(call, ...)                                                        \
  [&] {                                                                              \
    for (;;) {                                                                       \
      const auto ls_result = (call);                                                 \
      if (ls_result != -1) return ls_result;                                         \
      if (errno != EINTR) {                                                          \
        const int ls_errno = errno;                                                  \
        throw ::lockstep::SystemError(::lockstep::base::cat(__VA_ARGS__), ls_errno); \
      }                                                                              \
    }                                                                                \
  }()
