// Staging: handed out in order, and anew when nothing is underway.
#include "backend/cuda/check.h"
#include "backend/cuda/staging.h"

namespace quest::cuda {

Staging::Staging(cudaStream_t stream) : stream_(stream) {
  void* data = nullptr;
  check_cuda(cudaMallocHost(&data, kBytes), "cudaMallocHost", "{} bytes", kBytes);
  data_ = static_cast<std::byte*>(data);
}

Staging::~Staging() { cudaFreeHost(data_); }

void* Staging::take(std::size_t bytes) {
  if (used_bytes_ + bytes > kBytes) {
    check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    reset();
  }
  std::byte* const taken = data_ + used_bytes_;
  used_bytes_ += (bytes + 63) / 64 * 64;
  return taken;
}

}  // namespace quest::cuda
