// The text of CUDA's errors.
#include "backend/cuda/check.h"

namespace quest {

void fail_cuda(cudaError_t error, const char* call, const std::string& arguments) {
  cudaGetLastError();  // A launch that failed is remembered until it is asked for.
  fail("CUDA: {}({}): {}: {}", call, arguments, cudaGetErrorName(error), cudaGetErrorString(error));
}

void require_not_captured(cudaStream_t stream, const char* what) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  if (status != cudaStreamCaptureStatusNone) fail("CUDA: {} cannot be part of a recording", what);
}

}  // namespace quest
