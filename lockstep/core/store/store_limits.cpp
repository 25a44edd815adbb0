#include "lockstep/core/store/store_limits.h"

#include <charconv>

#include "lockstep/core/base/check.h"

namespace lockstep::store {

void check_key(std::string_view key) {
  LS_REQUIRE(!key.empty(), "store: a key must not be empty");
  LS_REQUIRE(key.size() <= kMaxKeyNbytes, "store key '", key.substr(0, 60), "...' has ", key.size(),
             " bytes; expected at most ", kMaxKeyNbytes);
}

void check_value(std::string_view key, std::string_view value) {
  LS_REQUIRE(value.size() <= kMaxValueNbytes, "store key '", key, "': the value has ", value.size(),
             " bytes; expected at most ", kMaxValueNbytes);
}

std::int64_t sum_of(std::string_view key, const std::optional<std::string>& value, std::int64_t amount) {
  std::int64_t present = 0;
  if (value) {
    const char* const end = value->data() + value->size();
    const auto [stop, error] = std::from_chars(value->data(), end, present);
    LS_REQUIRE(error == std::errc{} && stop == end, "store add '", key, "': the present value '", value->substr(0, 60),
               "' is no integer");
  }
  std::int64_t sum = 0;
  LS_REQUIRE(!__builtin_add_overflow(present, amount, &sum), "store add '", key, "': ", present, " + ", amount,
             " does not fit 64 bits");
  return sum;
}

void throw_get_timeout(const std::string& where, std::string_view key, Deadline deadline) {
  throw TimeoutError(base::cat(where, ": get '", key, "' timed out after ", seconds(deadline.timeout()),
                               " s: nobody has set it; is a rank missing or late?"));
}

}  // namespace lockstep::store
