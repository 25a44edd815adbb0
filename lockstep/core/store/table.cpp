#include "lockstep/core/store/table.h"

#include <algorithm>

#include "lockstep/core/base/check.h"
#include "lockstep/core/store/store_limits.h"

namespace lockstep {
namespace store {

void Table::put(std::string_view key, std::string value) {
  const auto at = values_.find(key);
  if (at != values_.end()) {
    at->second = std::move(value);
  } else {
    values_.emplace(key, std::move(value));
  }
  changed_.notify_all();
}

void Table::set(std::string_view key, std::string_view value) {
  check_key(key);
  check_value(key, value);
  std::string copy(value);
  const std::lock_guard lock(mutex_);
  put(key, std::move(copy));
}

std::string Table::get(std::string_view key, Deadline deadline) {
  check_key(key);
  constexpr Duration kLongest = std::chrono::hours(1);  // a longer wait could overflow inside the C library
  std::unique_lock lock(mutex_);
  for (;;) {
    if (const auto at = values_.find(key); at != values_.end()) return at->second;
    if (!closed_.empty()) throw PeerError(base::cat(closed_, " (while waiting for key '", key, "')"), -1);
    if (deadline.passed()) throw_get_timeout(where_, key, deadline);
    changed_.wait_for(lock, std::min(deadline.left(), kLongest));
  }
}

std::optional<std::string> Table::try_get(std::string_view key) const {
  check_key(key);
  const std::lock_guard lock(mutex_);
  const auto at = values_.find(key);
  return at == values_.end() ? std::nullopt : std::optional(at->second);
}

std::int64_t Table::add(std::string_view key, std::int64_t amount) {
  check_key(key);
  const std::lock_guard lock(mutex_);
  const auto at = values_.find(key);
  const std::int64_t sum = sum_of(key, at == values_.end() ? std::nullopt : std::optional(at->second), amount);
  put(key, std::to_string(sum));
  return sum;
}

std::string Table::compare_and_set(std::string_view key, std::optional<std::string_view> expected,
                                   std::string_view desired) {
  check_key(key);
  check_value(key, desired);
  const std::lock_guard lock(mutex_);
  const auto at = values_.find(key);
  const bool equal = at == values_.end() ? !expected : expected && at->second == *expected;
  if (equal) {
    put(key, std::string(desired));
    return std::string(desired);
  }
  return at == values_.end() ? std::string() : at->second;
}

bool Table::erase(std::string_view key) {
  check_key(key);
  const std::lock_guard lock(mutex_);
  const auto at = values_.find(key);
  if (at == values_.end()) return false;
  values_.erase(at);
  return true;
}

void Table::close(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  closed_ = reason;
  changed_.notify_all();
}

namespace {

class TableStore final : public Store {
 public:
  TableStore(std::shared_ptr<Table> table, std::function<void(std::string_view)> on_change)
      : table_(std::move(table)), on_change_(std::move(on_change)) {}

  void set(std::string_view key, std::string_view value) override {
    table_->set(key, value);
    on_change_(key);
  }
  std::string get(std::string_view key, Deadline deadline) override { return table_->get(key, deadline); }
  std::optional<std::string> try_get(std::string_view key) override { return table_->try_get(key); }
  std::int64_t add(std::string_view key, std::int64_t amount) override {
    const std::int64_t sum = table_->add(key, amount);
    on_change_(key);
    return sum;
  }
  std::string compare_and_set(std::string_view key, std::optional<std::string_view> expected,
                              std::string_view desired) override {
    std::string value = table_->compare_and_set(key, expected, desired);
    on_change_(key);
    return value;
  }
  bool erase(std::string_view key) override { return table_->erase(key); }

 private:
  const std::shared_ptr<Table> table_;
  const std::function<void(std::string_view)> on_change_;
};

}  // namespace

std::shared_ptr<Store> make_table_store(std::shared_ptr<Table> table, std::function<void(std::string_view)> on_change) {
  return std::make_shared<TableStore>(std::move(table), std::move(on_change));
}

}  // namespace store

std::shared_ptr<Store> make_memory_store() {
  return store::make_table_store(std::make_shared<store::Table>("memory store"), [](std::string_view) {});
}

}  // namespace lockstep
