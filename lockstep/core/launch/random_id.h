#pragma once
// Internal: never included from a public header.

#include <sys/random.h>

#include <string>

#include "lockstep/core/base/check.h"

namespace lockstep::launch {

/// `nbytes` (at most 256) bytes from the kernel's random source, in hexadecimal.
inline std::string random_hex(std::size_t nbytes) {
  std::string bytes(nbytes, '\0');
  LS_SYSCALL(::getrandom(bytes.data(), nbytes, 0), "can't read random bytes");
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const char byte : bytes) {
    out += kDigits[static_cast<unsigned char>(byte) >> 4];
    out += kDigits[static_cast<unsigned char>(byte) & 15];
  }
  return out;
}

}  // namespace lockstep::launch
