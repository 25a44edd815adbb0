#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

namespace lockstep::data {

using Bytes = std::vector<std::uint8_t>;

/// An empty folder of this test's own; goes with it.
class TempDirectory {
 public:
  TempDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "lockstep_data_XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make " + pattern);
    path_ = pattern;
  }
  ~TempDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  void write(const std::string& name, const Bytes& bytes) const {
    // A new file: file systems write one that was cut and filled again to the disk at once, which takes milliseconds.
    std::filesystem::remove(*this / name);
    std::ofstream file(*this / name, std::ios::binary);
    for (const std::uint8_t byte : bytes) file.put(static_cast<char>(byte));
    if (!file.flush()) throw std::runtime_error("cannot write " + *this / name);
  }

 private:
  std::string path_;
};

/// Numbers as the big-endian words of an IDX header.
inline Bytes big_endian(std::initializer_list<std::uint32_t> words) {
  Bytes bytes;
  for (const std::uint32_t word : words) {
    for (const int shift : {24, 16, 8, 0}) bytes.push_back(static_cast<std::uint8_t>(word >> shift));
  }
  return bytes;
}

inline Bytes operator+(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

/// Three images of 2 rows and 3 columns: pixel p of image i is 50 * i + 10 * p; the labels are 7, 0, 9.
inline Bytes idx_images_file() {
  Bytes pixels;
  for (int image = 0; image < 3; ++image) {
    for (int pixel = 0; pixel < 6; ++pixel) pixels.push_back(static_cast<std::uint8_t>(50 * image + 10 * pixel));
  }
  return big_endian({0x00000803, 3, 2, 3}) + pixels;
}
inline Bytes idx_labels_file() { return big_endian({0x00000801, 3}) + Bytes{7, 0, 9}; }

}  // namespace lockstep::data
