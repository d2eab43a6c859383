// Workspace: scratch memory of a backend that grows to what its kernels need and is then reused.
#pragma once

#include <array>
#include <cstddef>

#include "core/tensor.h"

namespace quest {

/// A few independent buffers. A buffer keeps its address until it is asked for more than it ever
/// held; what it holds is undefined at each request.
class Workspace {
 public:
  /// One name a purpose, so that buffers which are in use together do not overlap. The quantized
  /// gradients hold kOperandB while they call the dense products, which therefore take slots of
  /// their own.
  enum class Slot : std::uint8_t {
    kRows,
    kPackedWeights,
    kPackedInputs,
    kOperandA,
    kOperandB,
    kScratchpad,
    kWideA,
    kWideB,
    kWideOut,
    kSums,
    kAttention,
    kPackedRows,
    kPackedSums,
    kKeys,
    kValues,
    kTiles,
    kTileColumns
  };
  static constexpr std::size_t kSlots = 17;

  Workspace() = default;
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// At least `bytes` bytes, aligned to 64. Throws Error that states the size when memory is short.
  std::byte* bytes(Slot slot, std::size_t bytes);
  /// The same, as a contiguous tensor.
  Tensor tensor(Slot slot, Shape shape, DType dtype);
  /// What all buffers hold together.
  std::size_t total_bytes() const;

 private:
  struct Buffer {
    std::byte* data = nullptr;
    std::size_t bytes = 0;
  };
  std::array<Buffer, kSlots> buffers_;
};

}  // namespace quest
