// Staging: pinned memory of the host, through which small copies pass without being waited for.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace quest::cuda {

class Staging {
 public:
  /// Of a larger copy the time is the copy's, not the wait's.
  static constexpr std::size_t kBytes = std::size_t{8} << 20;

  explicit Staging(cudaStream_t stream);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// Memory of up to kBytes that no copy underway reads or writes. Waits for the stream where all
  /// of it is in use.
  void* take(std::size_t bytes);
  /// The stream has been waited for: no copy is underway.
  void reset() { used_bytes_ = 0; }

 private:
  cudaStream_t stream_;
  std::byte* data_ = nullptr;
  std::size_t used_bytes_ = 0;
};

}  // namespace quest::cuda
