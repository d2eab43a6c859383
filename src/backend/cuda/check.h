// CUDA's and cuBLASLt's errors become quest::Error; every kernel is launched through `launch`.
#pragma once

#include <cuda_runtime.h>

#include <string>
#include <utility>

#include "core/error.h"

namespace quest {

[[noreturn]] void fail_cuda(cudaError_t error, const char* call, const std::string& arguments);

/// Throws Error with the call, its arguments and the error's text unless `error` is success.
template <typename... Args>
void check_cuda(cudaError_t error, const char* call, fmt::format_string<Args...> format = "",
                Args&&... args) {
  if (error != cudaSuccess) {
    fail_cuda(error, call, fmt::format(format, std::forward<Args>(args)...));
  }
}

/// Throws Error that names `what`, which a graph may not contain, if the stream is being captured.
void require_not_captured(cudaStream_t stream, const char* what);

namespace cuda {

/// A stream that is destroyed with its owner.
class OwnedStream {
 public:
  explicit OwnedStream(cudaStream_t stream) : stream_(stream) {}
  ~OwnedStream() { cudaStreamDestroy(stream_); }
  OwnedStream(const OwnedStream&) = delete;
  OwnedStream& operator=(const OwnedStream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_;
};

}  // namespace cuda

/// Blocks of a kernel and threads of each block, on a stream.
struct Launch {
  const char* name;  ///< for the error's text
  cudaStream_t stream;
  dim3 grid;
  unsigned threads;
  int shared_bytes = 0;  ///< dynamic shared memory of a block; at most 99 KiB (227 on sm_90)
  unsigned cluster = 1;  ///< neighbouring blocks that run at once and share memory (sm_90)
};

/// Whether a kernel may come to the device before the one before it has ended (kernel_order.cuh):
/// where the current device runs code for compute capability 9.0 or more, and unless
/// QUEST_CUDA_OVERLAP=off.
bool kernels_overlap();

/// What a block may have of shared memory, static and dynamic, without asking.
inline constexpr int kPlainSharedBytes = 48 << 10;

/// kernel<<<grid, threads, shared_bytes, stream>>>(arguments...); nothing where the grid is empty.
/// All threads of the kernel call await_last_kernel.
template <typename... Parameters, typename... Arguments>
void launch(const Launch& how, void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (how.grid.x == 0 || how.grid.y == 0 || how.grid.z == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = how.grid;
  config.blockDim = dim3(how.threads);
  config.stream = how.stream;
  config.dynamicSmemBytes = static_cast<std::size_t>(how.shared_bytes);
  cudaLaunchAttribute attributes[2] = {};
  config.attrs = attributes;
  // The null stream, which tests use, also keeps order with the other streams.
  if (how.stream != nullptr && kernels_overlap()) {
    cudaLaunchAttribute& overlap = attributes[config.numAttrs++];
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
  }
  if (how.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = how.cluster;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  }
  if (how.shared_bytes > kPlainSharedBytes) {
    check_cuda(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, how.shared_bytes),
        "cudaFuncSetAttribute", "{}, {} bytes of shared memory", how.name, how.shared_bytes);
  }
  check_cuda(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...),
             "cudaLaunchKernelEx", "{}, grid {} x {} x {}, {} threads, {} bytes of shared memory",
             how.name, how.grid.x, how.grid.y, how.grid.z, how.threads, how.shared_bytes);
}

/// ceil(count / size), as a number of blocks.
inline unsigned blocks_of(std::int64_t count, std::int64_t size) {
  return static_cast<unsigned>((count + size - 1) / size);
}

}  // namespace quest
