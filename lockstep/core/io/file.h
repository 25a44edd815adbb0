#pragma once
// Internal: never included from a public header.

#include <string>
#include <string_view>

namespace lockstep::io {

/// The whole content of `path`. Throws SystemError that names it.
std::string read_file(const std::string& path);

/// What write_file_atomic() promises about a crash of the machine; a crash of the process never shows half a file.
enum class Durability {
  kFlushed,  ///< on the disk when the call returns (fsync of the file and of its directory)
  kCached,   ///< when the kernel gets to it; for files that a restart does not need
};

/// Writes `content` to a new file beside `path` and renames it to `path`: a reader sees the old content or the new,
/// never a part. Throws SystemError that names `path`; then nothing is left and an old file is as it was (unless only
/// the flush of the directory failed: then the new content is in place, and may not outlive a crash of the machine).
void write_file_atomic(const std::string& path, std::string_view content, Durability durability = Durability::kFlushed);

/// Removes `path` and everything below it; follows no symbolic link. A path that is not there is fine.
/// Throws SystemError.
void remove_tree(const std::string& path);

/// A fresh private directory, removed with everything in it when the object goes.
class TempDirectory {
 public:
  /// Below the system's directory for temporary files. `prefix` begins its name. Throws SystemError.
  explicit TempDirectory(std::string_view prefix = "lockstep");
  ~TempDirectory();
  TempDirectory(TempDirectory&& other) noexcept;
  TempDirectory& operator=(TempDirectory&& other) noexcept;

  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

}  // namespace lockstep::io
