#pragma once
// Internal. What every store accepts, and what each says in the same words.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "lockstep/core/base/deadline.h"

namespace lockstep::store {

inline constexpr std::size_t kMaxKeyNbytes = 1024;
inline constexpr std::size_t kMaxValueNbytes = std::size_t{64} << 20;

/// UsageError for an empty key or one beyond kMaxKeyNbytes.
void check_key(std::string_view key);
/// UsageError that names the key of a value beyond kMaxValueNbytes.
void check_value(std::string_view key, std::string_view value);

/// The sum of a decimal integer (nothing counts as 0) and `amount`. UsageError when it is no integer or overflows.
std::int64_t sum_of(std::string_view key, const std::optional<std::string>& value, std::int64_t amount);

/// `where` names the store ("store at 127.0.0.1:29500").
[[noreturn]] void throw_get_timeout(const std::string& where, std::string_view key, Deadline deadline);

}  // namespace lockstep::store
