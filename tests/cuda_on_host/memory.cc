// Device memory on the host: pages that are closed while no kernel and no copy runs.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

namespace cuda_on_host {
namespace {

struct Memory {
  std::map<std::uintptr_t, std::size_t> blocks;  // by address
  std::map<std::uintptr_t, std::size_t> pinned;  // of the host, likewise
  std::size_t free_bytes = std::size_t{4} << 30;
  int open = 0;
  int major = 9, minor = 0;  // compute capability
  std::int64_t fetched = 0;  // bytes that kernels asked for early

  void protect(int rights) const {
    for (const auto& [address, bytes] : blocks) {
      ::mprotect(reinterpret_cast<void*>(address), bytes, rights);
    }
  }
  // Whether all of [data, data + bytes) is device memory, or none of it.
  bool on_device(const void* data, std::size_t bytes) const { return inside(blocks, data, bytes); }
  bool is_pinned(const void* data, std::size_t bytes) const { return inside(pinned, data, bytes); }

  static bool inside(const std::map<std::uintptr_t, std::size_t>& blocks, const void* data,
                     std::size_t bytes) {
    const auto address = reinterpret_cast<std::uintptr_t>(data);
    auto found = blocks.upper_bound(address);
    if (found == blocks.begin()) return false;
    --found;
    return address + bytes <= found->first + found->second;
  }
};

Memory memory;

constexpr std::size_t kPage = 4096;

std::size_t whole_pages(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

std::size_t extent(std::size_t pitch, std::size_t width, std::size_t height) {
  return height == 0 ? 0 : (height - 1) * pitch + width;
}

}  // namespace

DeviceAccess::DeviceAccess() {
  if (memory.open++ == 0) memory.protect(PROT_READ | PROT_WRITE);
}
DeviceAccess::~DeviceAccess() {
  if (--memory.open == 0) memory.protect(PROT_NONE);
}
void set_capability(int major, int minor) {
  memory.major = major;
  memory.minor = minor;
}
void fetch_early(const void* from, unsigned bytes) {
  const bool whole = reinterpret_cast<std::uintptr_t>(from) % 16 == 0 && bytes % 16 == 0;
  memory.fetched += bytes;
  if (whole && memory.on_device(from, bytes)) return;
  std::fprintf(stderr, "%u bytes are fetched that are not whole, or not the device's\n", bytes);
  std::abort();
}
std::int64_t take_fetched_bytes() { return std::exchange(memory.fetched, 0); }
void set_free_bytes(std::size_t bytes) { memory.free_bytes = bytes; }

}  // namespace cuda_on_host

using cuda_on_host::DeviceAccess;
using cuda_on_host::extent;
using cuda_on_host::memory;

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorIllegalState:
      return "cudaErrorIllegalState";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
      return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureImplicit:
      return "cudaErrorStreamCaptureImplicit";
    case cudaErrorCapturedEvent:
      return "cudaErrorCapturedEvent";
    default:
      return "cudaErrorInvalidValue";
  }
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"emulated on the host", memory.major, memory.minor, 2};
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*)()) {
  attributes->ptxVersion = 10 * memory.major + memory.minor;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
  *free_bytes = *total_bytes = memory.free_bytes;
  return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** data, std::size_t bytes, cudaStream_t) {
  const cudaError_t error = cuda_on_host::outside_capture();
  if (error != cudaSuccess) return error;
  const std::size_t size = cuda_on_host::whole_pages(bytes);
  if (size > memory.free_bytes) return cudaErrorMemoryAllocation;
  void* const pages = ::mmap(nullptr, size + cuda_on_host::kPage, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return cudaErrorMemoryAllocation;
  std::memset(pages, 0xff, size);  // NaN, until something is written
  ::mprotect(pages, size + cuda_on_host::kPage, PROT_NONE);
  memory.blocks[reinterpret_cast<std::uintptr_t>(pages)] = size;
  memory.free_bytes -= size;
  // The block ends with the last open page, so that a kernel that goes on behind it dies.
  *data = static_cast<char*>(pages) + (size - (bytes + 63) / 64 * 64);
  return cudaSuccess;
}

cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  const cudaError_t error = cuda_on_host::outside_capture();
  if (error != cudaSuccess) return error;
  const auto pages =
      reinterpret_cast<std::uintptr_t>(data) / cuda_on_host::kPage * cuda_on_host::kPage;
  if (!memory.blocks.contains(pages)) return cudaErrorInvalidValue;
  return cuda_on_host::enqueue(stream, [pages] {
    const auto found = memory.blocks.find(pages);
    ::munmap(reinterpret_cast<void*>(pages), found->second + cuda_on_host::kPage);
    memory.free_bytes += found->second;
    memory.blocks.erase(found);
  });
}

cudaError_t cudaMallocHost(void** data, std::size_t bytes) {
  const cudaError_t error = cuda_on_host::outside_capture();
  if (error != cudaSuccess) return error;
  *data = ::operator new(bytes);
  memory.pinned[reinterpret_cast<std::uintptr_t>(*data)] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* data) {
  const cudaError_t error = cuda_on_host::wait();
  if (error != cudaSuccess) return error;
  memory.pinned.erase(reinterpret_cast<std::uintptr_t>(data));
  ::operator delete(data);
  return cudaSuccess;
}

namespace {

// Rows of bytes, and the distance from one to the next.
struct Rows {
  char* data;
  std::size_t pitch;
};

void copy_rows(Rows to, Rows from, std::size_t width, std::size_t height) {
  const DeviceAccess access;
  for (std::size_t row = 0; row < height; ++row) {
    std::memcpy(to.data + row * to.pitch, from.data + row * from.pitch, width);
  }
}

}  // namespace

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream) {
  if (width == 0 || height == 0) return cudaSuccess;
  if (to_pitch < width || from_pitch < width) return cudaErrorInvalidValue;
  const std::size_t to_extent = extent(to_pitch, width, height);
  const std::size_t from_extent = extent(from_pitch, width, height);
  if (memory.on_device(to, to_extent) != (kind != cudaMemcpyDeviceToHost) ||
      memory.on_device(from, from_extent) != (kind != cudaMemcpyHostToDevice)) {
    return cudaErrorInvalidValue;
  }
  const Rows target{static_cast<char*>(to), to_pitch};
  const Rows source{static_cast<char*>(const_cast<void*>(from)), from_pitch};
  if (kind == cudaMemcpyHostToDevice && !memory.is_pinned(from, from_extent)) {
    std::vector<char> values(source.data, source.data + from_extent);
    return cuda_on_host::enqueue(stream, [=, values = std::move(values)]() mutable {
      copy_rows(target, {values.data(), from_pitch}, width, height);
    });
  }
  const cudaError_t error =
      cuda_on_host::enqueue(stream, [=] { copy_rows(target, source, width, height); });
  if (error == cudaSuccess && kind == cudaMemcpyDeviceToHost && !memory.is_pinned(to, to_extent)) {
    return cuda_on_host::wait();
  }
  return error;
}

cudaError_t cudaMemset2DAsync(void* to, std::size_t pitch, int value, std::size_t width,
                              std::size_t height, cudaStream_t stream) {
  if (width == 0 || height == 0) return cudaSuccess;
  if (pitch < width || !memory.on_device(to, extent(pitch, width, height))) {
    return cudaErrorInvalidValue;
  }
  return cuda_on_host::enqueue(stream, [=] {
    const DeviceAccess access;
    for (std::size_t row = 0; row < height; ++row) {
      std::memset(static_cast<char*>(to) + row * pitch, value, width);
    }
  });
}
