#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>

#include <toml++/toml.h>

#include "apps/lockstep-train/options.h"
#include "lockstep/core/base/check.h"

namespace lockstep::app {
namespace {

/// Collects the names of the options.
struct CollectNames {
  std::set<std::string, std::less<>>& names;
  template <typename T>
  void operator()(const char* name, T&, const char*) const {
    names.insert(name);
  }
};

/// Takes each option that the file has.
class TakeValues {
 public:
  TakeValues(const toml::table& table, const std::string& file) : table_(table), file_(file) {}

  void operator()(const char* name, std::string& value, const char*) const { take(name, value, "a string"); }
  void operator()(const char* name, std::int64_t& value, const char*) const { take(name, value, "a whole number"); }
  void operator()(const char* name, bool& value, const char*) const { take(name, value, "true or false"); }
  void operator()(const char* name, double& value, const char*) const {
    const toml::node* const node = table_.get(name);
    if (node == nullptr) return;
    // `lr = 1` is a number as well.
    if (!node->is_number()) reject(*node, name, "a number");
    value = *node->value<double>();
  }
  void operator()(const char* name, std::vector<std::int64_t>& value, const char*) const {
    const toml::node* const node = table_.get(name);
    if (node == nullptr) return;
    const toml::array* const array = node->as_array();
    if (array == nullptr) reject(*node, name, "a list of whole numbers");
    value.clear();
    for (const toml::node& element : *array) {
      const auto number = element.value_exact<std::int64_t>();
      if (!number) reject(element, name, "a list of whole numbers");
      value.push_back(*number);
    }
  }

 private:
  template <typename T>
  void take(const char* name, T& value, const char* expected) const {
    const toml::node* const node = table_.get(name);
    if (node == nullptr) return;
    const auto found = node->value_exact<T>();
    if (!found) reject(*node, name, expected);
    value = *found;
  }

  [[noreturn]] void reject(const toml::node& node, const char* name, const char* expected) const {
    throw UsageError(base::cat(file_, ":", node.source().begin.line, ": key '", name, "': expected ", expected));
  }

  const toml::table& table_;
  const std::string& file_;
};

toml::table parse(const std::string& file) {
  std::ifstream in(file);
  LS_REQUIRE(in.good(), "cannot open configuration ", file, ": ", std::strerror(errno));
  std::ostringstream text;
  text << in.rdbuf();
  LS_REQUIRE(!in.bad() && !text.fail(), "cannot read configuration ", file, ": is it a file?");
  try {
    return toml::parse(text.view(), file);
  } catch (const toml::parse_error& error) {
    throw UsageError(base::cat(file, ":", error.source().begin.line, ": no valid TOML: ", error.description()));
  }
}

}  // namespace

void read_config(const std::string& file, Options& options) {
  const toml::table table = parse(file);
  std::set<std::string, std::less<>> names;
  for_each_option(options, CollectNames{names});
  for (const auto& [key, node] : table) {
    LS_REQUIRE(names.contains(key.str()), file, ":", key.source().begin.line, ": unknown key '", key.str(),
               "' (see lockstep-train --help)");
  }
  for_each_option(options, TakeValues(table, file));
}

}  // namespace lockstep::app
