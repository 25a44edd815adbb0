#include "lockstep/core/base/environment.h"

#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "tests/unit/core/base/scoped_environment.h"

namespace lockstep {
namespace {

using testing::HasSubstr;

TEST(EnvironmentTable, RowsAreCompleteAndDistinct) {
  const std::set<std::string_view> types = {"string", "int", "seconds", "bool", "path", "host:port"};
  std::set<std::string_view> names;
  for (const EnvironmentVariable& row : environment_table()) {
    EXPECT_TRUE(names.insert(row.name).second) << row.name << " is there twice";
    EXPECT_TRUE(types.contains(row.type)) << row.name << ": " << row.type;
    EXPECT_FALSE(row.meaning.empty()) << row.name;
  }
  EXPECT_TRUE(names.contains("LOCKSTEP_STORE"));
}

TEST(Environment, AVariableOutsideTheTableIsABugOfOurs) {
  EXPECT_THROW(environment_string("LOCKSTEP_NO_SUCH_VARIABLE"), InternalError);
}

TEST(Environment, UnsetAndEmptyAreNothing) {
  ScopedEnvironment environment;
  EXPECT_EQ(environment_string("LOCKSTEP_BACKEND"), std::nullopt);
  EXPECT_EQ(environment_int("RANK"), std::nullopt);
  EXPECT_EQ(environment_seconds("LOCKSTEP_TIMEOUT"), std::nullopt);
  EXPECT_EQ(environment_bool("TORCHELASTIC_USE_AGENT_STORE"), std::nullopt);
  environment.set("LOCKSTEP_BACKEND", "");
  EXPECT_EQ(environment_string("LOCKSTEP_BACKEND"), std::nullopt);
}

TEST(Environment, ValuesOfEachTypeParse) {
  ScopedEnvironment environment;
  environment.set("LOCKSTEP_BACKEND", "shm");
  environment.set("RANK", "-17");
  EXPECT_EQ(environment_string("LOCKSTEP_BACKEND"), "shm");
  EXPECT_EQ(environment_int("RANK"), -17);
  for (const auto& [text, value] : {std::pair{"30", 30.0}, {"0.25", 0.25}, {"1e9", 1e9}}) {
    environment.set("LOCKSTEP_TIMEOUT", text);
    EXPECT_EQ(environment_seconds("LOCKSTEP_TIMEOUT"), value) << text;
  }
  for (const char* text : {"1", "true", "True", "YES", "on"}) {
    environment.set("TORCHELASTIC_USE_AGENT_STORE", text);
    EXPECT_EQ(environment_bool("TORCHELASTIC_USE_AGENT_STORE"), true) << text;
  }
  for (const char* text : {"0", "false", "False", "no", "OFF"}) {
    environment.set("TORCHELASTIC_USE_AGENT_STORE", text);
    EXPECT_EQ(environment_bool("TORCHELASTIC_USE_AGENT_STORE"), false) << text;
  }
}

TEST(Environment, AValueThatDoesNotParseNamesVariableValueAndExpectation) {
  ScopedEnvironment environment;
  for (const char* text : {"two", "2x", " 2", "2.0", "+", "99999999999999999999"}) {
    environment.set("RANK", text);
    try {
      environment_int("RANK");
      ADD_FAILURE() << "accepted '" << text << "'";
    } catch (const UsageError& error) {
      EXPECT_EQ(std::string(error.what()),
                "environment variable RANK='" + std::string(text) + "': expected a whole number");
    }
  }
  for (const char* text : {"0", "-1", "nan", "inf", "30s", "1e10", "soon"}) {
    environment.set("LOCKSTEP_TIMEOUT", text);
    EXPECT_THROW(environment_seconds("LOCKSTEP_TIMEOUT"), UsageError) << text;
  }
  for (const char* text : {"2", "maybe", "tru"}) {
    environment.set("TORCHELASTIC_USE_AGENT_STORE", text);
    EXPECT_THROW(environment_bool("TORCHELASTIC_USE_AGENT_STORE"), UsageError) << text;
  }
}

}  // namespace
}  // namespace lockstep
