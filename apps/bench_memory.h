// Memory of what `quest bench kernels` works on.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "backend/backend.h"

namespace quest::app {

/// Memory of a device for operands, one after the other in blocks large enough for a CPU's large
/// pages, as training's arenas are: zeroed tensors, aligned to 64 bytes, that live as long as it
/// does.
class CaseMemory {
 public:
  /// `device` outlives it.
  explicit CaseMemory(Backend& device) : device_(&device) {}

  Tensor take(Shape shape, DType dtype);
  Backend& device() const { return *device_; }

 private:
  struct Release {
    Backend* device;
    std::size_t bytes;
    void operator()(std::byte* data) const noexcept { device->deallocate(data, bytes); }
  };
  Backend* device_;
  std::vector<std::unique_ptr<std::byte, Release>> blocks_;
  std::byte* free_ = nullptr;  ///< of the last block
  std::size_t left_bytes_ = 0;
};

}  // namespace quest::app
