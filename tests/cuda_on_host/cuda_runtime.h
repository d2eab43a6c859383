// The part of the CUDA runtime that src/backend/cuda uses, on the host, for tests without a device.
//
// Kernels are compiled by the host's compiler and run by execution.cc: the threads of a block are
// fibers on one thread of the host, blocks run one after the other, and device memory (memory.cc)
// can be touched by kernels and copies only.
// Streams (streams.cc) run what they are asked for at once or late, and can be captured.
//
// What this shows: that kernels compute what the reference does; that every thread reaches each
// barrier, at the same line; that nothing depends on the order of threads between two barriers
// (tests run them forwards and backwards); that no host code touches device memory, nor a copy the
// wrong side; that launches keep the limits of grids and blocks; what NaN in fresh memory does.
// What it cannot show: races that neither order brings out, the order of device memory between
// blocks, registers and occupancy, the instructions that nvcc makes (its transcendental functions
// differ in the last bits), and anything of cuBLASLt but how we call it (cublasLt.h).
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // blocks run one at a time
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __maxnreg__(registers)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// --- Inside a block ---

[[noreturn]] inline void __trap() { __builtin_trap(); }

namespace cuda_on_host {

/// Waits until every thread of the block, or of the warp, is at this line.
void block_barrier(const std::source_location& where);
void warp_barrier(unsigned mask, const std::source_location& where);
/// The same of so many threads of the block that name the barrier by its number, and of all threads
/// of a cluster.
void named_barrier(unsigned number, unsigned threads, const std::source_location& where);
void cluster_barrier(const std::source_location& where);
/// The bits that lane `lane` of this warp brings to the same line.
std::uint64_t exchange(unsigned mask, std::uint64_t bits, unsigned lane,
                       const std::source_location& where);
/// Where a kernel begins to depend on what came before: kernels that may be begun early cannot
/// touch device memory until then, but by read_early, and every thread has to come here.
void await_last_kernel();
uint4 read_early(const void* from);
/// Nothing but a check: these are whole 16 bytes of device memory.
void fetch_early(const void* from, unsigned bytes);
/// How many bytes that was since the last call.
std::int64_t take_fetched_bytes();

}  // namespace cuda_on_host

inline void __syncthreads(std::source_location where = std::source_location::current()) {
  cuda_on_host::block_barrier(where);
}
inline void __syncwarp(unsigned mask = ~0u,
                       std::source_location where = std::source_location::current()) {
  cuda_on_host::warp_barrier(mask, where);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane,
              std::source_location where = std::source_location::current()) {
  static_assert(sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = cuda_on_host::exchange(mask, bits, static_cast<unsigned>(lane), where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask,
                  std::source_location where = std::source_location::current()) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x % 32) ^ lane_mask, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              std::source_location where = std::source_location::current()) {
  unsigned bits = (predicate != 0 ? 1u : 0u) << threadIdx.x % 32;
  for (int lanes = 1; lanes < 32; lanes *= 2) bits |= __shfl_xor_sync(mask, bits, lanes, where);
  return bits;
}

inline unsigned __reduce_max_sync(unsigned mask, unsigned value,
                                  std::source_location where = std::source_location::current()) {
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    value = std::max(value, __shfl_xor_sync(mask, value, lanes, where));
  }
  return value;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
/// Byte i of the result: that of the eight of a (0..3) and b (4..7) which digit i of `selector`
/// says.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t bytes = a | std::uint64_t{b} << 32;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned digit = selector >> 4 * i & 7u;
    result |= static_cast<unsigned>(bytes >> 8 * digit & 0xffu) << 8 * i;
  }
  return result;
}
/// The upper word of both, moved to the left.
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned count) {
  return static_cast<unsigned>(((std::uint64_t{high} << 32 | low) << (count & 31u)) >> 32);
}
/// The sum, rounded towards minus infinity.
inline float __fadd_rd(float a, float b) {
  // The error of the sum in double is a double, and tells which side the exact sum lies on.
  const double x = double{a}, y = double{b}, sum = x + y;
  const double y_part = sum - x, error = (x - (sum - y_part)) + (y - y_part);
  const auto nearest = static_cast<float>(sum);
  const bool above = double{nearest} > sum || (double{nearest} == sum && error < 0);
  return above ? std::nextafter(nearest, -HUGE_VALF) : nearest;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline std::int64_t min(std::int64_t a, std::int64_t b) { return b < a ? b : a; }
inline unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
/// Rounds towards 0, where a double has the whole sum.
inline float __fadd_rz(float a, float b) {
  const double sum = double{a} + double{b};
  const auto nearest = static_cast<float>(sum);
  return std::fabs(double{nearest}) > std::fabs(sum) ? std::nextafter(nearest, 0.0f) : nearest;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(std::uint64_t{a} * b >> 32);
}
inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 32; i += 8) {
    sum += static_cast<std::int8_t>(a >> i & 0xff) * static_cast<std::int8_t>(b >> i & 0xff);
  }
  return sum;
}

// --- The host's side ---

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorIllegalState = 401,
  cudaErrorNotReady = 600,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureImplicit = 906,
  cudaErrorCapturedEvent = 907,
};
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
};
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes);

/// The null stream is the legacy one.
using cudaStream_t = struct CudaOnHostStream*;
cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);

/// While a stream is captured, launches, copies and fills are recorded as they are, with arguments
/// by value. Waiting, asking for times or memory, and the use of other streams are errors that
/// invalidate the capture. (Real graphs may contain allocations; ours shall not.)
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal = 0,
  cudaStreamCaptureModeThreadLocal = 1,
};
using cudaGraph_t = struct CudaOnHostGraph*;
using cudaGraphExec_t = struct CudaOnHostGraphExec*;
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
enum cudaStreamCaptureStatus {
  cudaStreamCaptureStatusNone = 0,
  cudaStreamCaptureStatusActive = 1,
  cudaStreamCaptureStatusInvalidated = 2,
};
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long flags = 0);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);

/// Its time can be read once the stream has been waited for.
using cudaEvent_t = struct CudaOnHostEvent*;
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to);

enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice
};
cudaError_t cudaMallocAsync(void** data, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream);
/// Memory of the host from which copies are made when their turn comes. Those from other memory of
/// the host have read it when they return, and copies to it have been made.
cudaError_t cudaMallocHost(void** data, std::size_t bytes);
cudaError_t cudaFreeHost(void* data);
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream);
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes,
                                   cudaMemcpyKind kind, cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}
cudaError_t cudaMemset2DAsync(void* to, std::size_t pitch, int value, std::size_t width,
                              std::size_t height, cudaStream_t stream);

inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return cudaMemset2DAsync(to, bytes, value, bytes, 1, stream);
}

enum cudaLaunchAttributeID {
  cudaLaunchAttributeClusterDimension = 4,
  cudaLaunchAttributeProgrammaticStreamSerialization = 6,
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

/// Functions of the driver by name: cuTensorMapEncodeTiled alone (tensor_copy.cc).
enum cudaDriverEntryPointQueryResult {
  cudaDriverEntryPointSuccess = 0,
  cudaDriverEntryPointSymbolNotFound = 1,
};
enum { cudaEnableDefault = 0 };
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* found);

namespace cuda_on_host {

/// While one lives, device memory can be touched.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

/// What a stream is asked for: `operation` runs, or is recorded.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> operation);
/// The error of a call that may not be made while a stream is captured.
cudaError_t outside_capture();
/// As cudaStreamSynchronize, of all streams.
cudaError_t wait();
/// How often the host has waited, and graphs were launched.
std::uint64_t count_waits();
std::uint64_t count_graph_launches();
/// From now on (not) everything runs as late as it may: when it is waited for.
void set_late(bool late);

/// The order in which the threads of a block take turns.
enum class Order { kForwards, kBackwards };
void set_order(Order order);
/// The compute capability of the device, 9.0 at first.
void set_capability(int major, int minor);
/// What a device would have free: the next allocation beyond it fails.
void set_free_bytes(std::size_t bytes);
/// Whether the driver has cuTensorMapEncodeTiled.
void set_tensor_maps(bool available);

cudaError_t run_grid(const cudaLaunchConfig_t& config, const void* kernel,
                     std::function<void()> thread);
cudaError_t grant_shared(const void* kernel, int bytes);

}  // namespace cuda_on_host

/// Kernels are code for the device's own compute capability.
struct cudaFuncAttributes {
  int ptxVersion;  // 10 x major + minor
};
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*kernel)());

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int value) {
  return cuda_on_host::grant_shared(reinterpret_cast<const void*>(kernel), value);
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  return cuda_on_host::run_grid(
      *config, reinterpret_cast<const void*>(kernel),
      [kernel, values = std::tuple<Parameters...>(std::forward<Arguments>(arguments)...)] {
        std::apply(kernel, values);
      });
}
