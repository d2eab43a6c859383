// Memory of operands, in blocks of the device's own.
#include "apps/bench_memory.h"

#include <algorithm>

namespace quest::app {

Tensor CaseMemory::take(Shape shape, DType dtype) {
  constexpr std::size_t kBlockBytes = std::size_t{8} << 20;
  const std::size_t bytes =
      (static_cast<std::size_t>(shape.numel()) * size_bytes(dtype) + 63) / 64 * 64;
  if (bytes > left_bytes_) {
    left_bytes_ = std::max(bytes, kBlockBytes);
    free_ = static_cast<std::byte*>(device_->allocate(left_bytes_));
    blocks_.emplace_back(free_, Release{device_, left_bytes_});
  }
  const Tensor tensor(free_, shape, dtype, device_->place());
  free_ += bytes;
  left_bytes_ -= bytes;
  return tensor;
}

}  // namespace quest::app
