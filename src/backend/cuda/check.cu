// The text of CUDA's errors, and what launches ask of the current device.
#include <cstdlib>
#include <string_view>

#include "backend/cuda/check.h"
#include "backend/cuda/kernel_order.cuh"

namespace quest {
namespace {

// Asked which code of this build a device has taken.
__global__ void probe_kernel() { cuda::follow_last_kernel(); }

}  // namespace

void fail_cuda(cudaError_t error, const char* call, const std::string& arguments) {
  cudaGetLastError();  // A launch that failed is remembered until it is asked for.
  fail("CUDA: {}({}): {}: {}", call, arguments, cudaGetErrorName(error), cudaGetErrorString(error));
}

void require_not_captured(cudaStream_t stream, const char* what) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  if (status != cudaStreamCaptureStatusNone) fail("CUDA: {} cannot be part of a recording", what);
}

bool kernels_overlap() {
  static const bool wanted = [] {
    const char* const value = std::getenv("QUEST_CUDA_OVERLAP");
    return value == nullptr || std::string_view(value) != "off";
  }();
  if (!wanted) return false;
  // Code for less has no instruction to wait, on whatever device it runs.
  cudaFuncAttributes probe{};
  check_cuda(cudaFuncGetAttributes(&probe, probe_kernel), "cudaFuncGetAttributes", "probe_kernel");
  return probe.ptxVersion >= 90;
}

}  // namespace quest
