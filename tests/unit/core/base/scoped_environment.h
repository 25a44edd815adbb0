#pragma once

#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "lockstep/core/base/environment.h"

namespace lockstep {

/// Unsets every variable of the table and puts all of them back when it goes, so that a test sees only what it sets,
/// whatever started it. Not for tests in which other threads read the environment.
class ScopedEnvironment {
 public:
  ScopedEnvironment() {
    for (const EnvironmentVariable& row : environment_table()) {
      const std::string name(row.name);
      const char* const value = std::getenv(name.c_str());
      saved_[name] = value == nullptr ? std::nullopt : std::optional<std::string>(value);
      ::unsetenv(name.c_str());
    }
  }
  ~ScopedEnvironment() {
    for (const auto& [name, value] : saved_) {
      if (value) {
        ::setenv(name.c_str(), value->c_str(), 1);
      } else {
        ::unsetenv(name.c_str());
      }
    }
  }
  ScopedEnvironment(const ScopedEnvironment&) = delete;
  ScopedEnvironment& operator=(const ScopedEnvironment&) = delete;

  void set(const std::string& name, const std::string& value) { ::setenv(name.c_str(), value.c_str(), 1); }

 private:
  std::map<std::string, std::optional<std::string>> saved_;
};

}  // namespace lockstep
