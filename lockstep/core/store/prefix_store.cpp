#include <utility>

#include "lockstep/core/base/check.h"
#include "lockstep/core/store/store.h"
#include "lockstep/core/store/store_limits.h"

namespace lockstep {
namespace {

class PrefixStore final : public Store {
 public:
  PrefixStore(std::shared_ptr<Store> store, std::string prefix) : store_(std::move(store)), prefix_(std::move(prefix)) {
    LS_REQUIRE(store_ != nullptr, "prefix store: the store below must not be null");
    LS_REQUIRE(!prefix_.empty(), "prefix store: the prefix must not be empty");
    prefix_ += '/';
  }

  void set(std::string_view key, std::string_view value) override { store_->set(full(key), value); }
  std::string get(std::string_view key, Deadline deadline) override { return store_->get(full(key), deadline); }
  std::optional<std::string> try_get(std::string_view key) override { return store_->try_get(full(key)); }
  std::int64_t add(std::string_view key, std::int64_t amount) override { return store_->add(full(key), amount); }
  std::string compare_and_set(std::string_view key, std::optional<std::string_view> expected,
                              std::string_view desired) override {
    return store_->compare_and_set(full(key), expected, desired);
  }
  bool erase(std::string_view key) override { return store_->erase(full(key)); }

 private:
  std::string full(std::string_view key) const {
    store::check_key(key);
    return prefix_ + std::string(key);
  }

  const std::shared_ptr<Store> store_;
  std::string prefix_;
};

}  // namespace

std::shared_ptr<Store> make_prefix_store(std::shared_ptr<Store> store, std::string prefix) {
  return std::make_shared<PrefixStore>(std::move(store), std::move(prefix));
}

}  // namespace lockstep
