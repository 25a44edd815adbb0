#include "lockstep/core/backend/packed.h"

#include <cstring>

namespace lockstep {

Packed::Packed(const Collective& collective, std::span<const BufferPair> buffers, const Backend& backend)
    : width_(size_of(collective.dtype)),
      is_broadcast_(collective.kind == OpKind::kBroadcast),
      reads_(!is_broadcast_ || backend.rank() == collective.root),
      buffers_(buffers.begin(), buffers.end()) {
  const auto world = static_cast<std::size_t>(backend.world_size());
  for (const BufferPair& buffer : buffers) count_ += buffer.count;
  input_parts_ = collective.kind == OpKind::kReduceScatter ? world : 1;
  output_parts_ = collective.kind == OpKind::kAllGather ? world : 1;
  input_.resize(count_ * input_parts_ * width_);
  // One buffer where the operation works in place.
  if (input_parts_ != output_parts_) output_.resize(count_ * output_parts_ * width_);
}

/// Calls move(place in the packed buffer, buffer, byte in that buffer, bytes) for every part of every buffer.
template <typename Move>
void Packed::for_each_part(std::size_t parts, std::byte* packed, Move move) const {
  for (std::size_t part = 0; part < parts; ++part) {
    for (const BufferPair& buffer : buffers_) {
      const std::size_t nbytes = buffer.count * width_;
      if (nbytes != 0) move(packed, buffer, part * nbytes, nbytes);
      packed += nbytes;
    }
  }
}

void Packed::pack() {
  if (!reads_) return;
  for_each_part(input_parts_, input_.data(),
                [this](std::byte* packed, const BufferPair& buffer, std::size_t at, std::size_t nbytes) {
                  const void* const data = is_broadcast_ ? buffer.output : buffer.input;
                  std::memcpy(packed, static_cast<const std::byte*>(data) + at, nbytes);
                });
}

void Packed::unpack() {
  if (is_broadcast_ && reads_) return;  // The root has it in place.
  for_each_part(output_parts_, static_cast<std::byte*>(output()),
                [](std::byte* packed, const BufferPair& buffer, std::size_t at, std::size_t nbytes) {
                  std::memcpy(static_cast<std::byte*>(buffer.output) + at, packed, nbytes);
                });
}

Packed::Buffer Packed::buffer(std::size_t i) const noexcept {
  const BufferPair& one = buffers_[i];
  const std::size_t nbytes = one.count * width_;
  return {one.input, is_broadcast_ ? 0 : input_parts_ * nbytes, one.output, output_parts_ * nbytes};
}

}  // namespace lockstep
