// Workspace: scratch memory of a device, kept by purpose and grown when a larger shape comes.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace quest::cuda {

/// Memory of `bytes`, not cleared. Throws Error that says how much was asked for and is free, or
/// that the stream is being captured.
void* allocate_device(std::size_t bytes, cudaStream_t stream);

/// What a purpose holds is undefined after each `take`. All of it is used on one stream, so that
/// memory may be freed while kernels that read it are still waiting.
class Workspace {
 public:
  enum class Slot : std::uint8_t {
    kSums,      ///< partial sums
    kOperand,   ///< codes or values widened for a product
    kGradient,  ///< output gradients rounded, or values scaled
    kLines,     ///< scales and sums of lines
    kLibrary,   ///< cuBLASLt's own
  };

  explicit Workspace(cudaStream_t stream) : stream_(stream) {}
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// How often memory was moved: as long as this stays the same, so does what `take` returns.
  std::size_t growths() const { return growths_; }

  template <typename T>
  T* take(Slot slot, std::int64_t count) {
    return static_cast<T*>(take_bytes(slot, static_cast<std::size_t>(count) * sizeof(T)));
  }

 private:
  static constexpr std::size_t kSlots = 5;
  struct Block {
    void* data = nullptr;
    std::size_t bytes = 0;
  };

  void* take_bytes(Slot slot, std::size_t bytes);

  cudaStream_t stream_;
  std::array<Block, kSlots> blocks_{};
  std::size_t growths_ = 0;
};

}  // namespace quest::cuda
