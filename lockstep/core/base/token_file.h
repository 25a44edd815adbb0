#pragma once
// Internal: never included from a public header.

#include <string>

namespace lockstep::base {

/// The job's secret from a file: one line, at most 1024 bytes, without the line's end.
///
/// Throws UsageError that names the file where it can't be opened, is no regular file, belongs to another user (root's
/// is fine), may be used by anybody but its owner, or holds no such line; SystemError where reading fails.
std::string read_token_file(const std::string& path);

}  // namespace lockstep::base
