// Events on the host: a time, and whether the stream has been waited for since.
#include <chrono>
#include <cstdint>

#include "cuda_runtime.h"

struct CudaOnHostEvent {
  std::chrono::steady_clock::time_point time;
  std::uint64_t waits;  // of the stream, before it was recorded
};

namespace {
std::uint64_t waits = 0;
}  // namespace

cudaError_t cudaStreamSynchronize(cudaStream_t) {
  ++waits;
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new CudaOnHostEvent{};
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  *event = {std::chrono::steady_clock::now(), waits};
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  if (from->waits == waits || to->waits == waits) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
  return cudaSuccess;
}
