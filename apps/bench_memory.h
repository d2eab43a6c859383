// Memory of what `quest bench kernels` works on.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "core/tensor.h"

namespace quest::app {

/// Memory for operands, one after the other in large pages as training's arenas have them: zeroed
/// tensors, aligned to 64 bytes, that live as long as it does.
class CaseMemory {
 public:
  CaseMemory() = default;
  CaseMemory(CaseMemory&&) = default;
  CaseMemory& operator=(CaseMemory&&) = default;

  Tensor take(Shape shape, DType dtype);

 private:
  struct Release {
    std::size_t bytes;
    void operator()(std::byte* data) const noexcept;
  };
  std::vector<std::unique_ptr<std::byte, Release>> blocks_;
  std::byte* free_ = nullptr;  ///< of the last block
  std::size_t left_bytes_ = 0;
};

}  // namespace quest::app
