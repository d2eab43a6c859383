// CudaBackend: the device, its memory, copies and casts.
#include <cstring>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/make_cuda_backend.h"
#include "backend/cuda/row_vectors.cuh"

namespace quest {
namespace {

template <typename To, typename From>
struct Cast {
  static constexpr int kWidth = cuda::kRowWidth<To>;
  To dst;
  From src;
  __device__ void operator()(std::int64_t r, std::int64_t c) const {
    float values[kWidth];
    cuda::load_values(values, src, r, c);
    cuda::store_values(dst, r, c, values);
  }
};

// Bytes from one row to the next, and of one row.
std::size_t pitch(const Tensor& tensor) {
  const std::size_t element = size_bytes(tensor.dtype);
  // A single row's stride is nobody's business, and may be smaller than the row.
  const std::int64_t stride = tensor.is_contiguous() ? tensor.cols() : tensor.row_stride;
  return static_cast<std::size_t>(stride) * element;
}
std::size_t width(const Tensor& tensor) {
  return static_cast<std::size_t>(tensor.cols()) * size_bytes(tensor.dtype);
}

cudaStream_t stream_on(int device) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    cudaGetLastError();
    fail("this machine has no CUDA device ({}); use --device cpu", cudaGetErrorString(error));
  }
  if (device < 0 || device >= count) {
    fail("there is no CUDA device {}: this machine has {}, counted from 0", device, count);
  }
  check_cuda(cudaSetDevice(device), "cudaSetDevice", "{}", device);
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreate(&stream), "cudaStreamCreate");
  return stream;
}

}  // namespace

CudaBackend::CudaBackend(int device)
    : owned_stream_(stream_on(device)),
      stream_(owned_stream_.get()),
      staging_(stream_),
      workspace_(stream_),
      products_(stream_, workspace_) {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties", "{}", device);
  device_ = cuda::product_device(device);
  name_ = fmt::format("cuda:{} {} (sm_{}{})", device, properties.name, properties.major,
                      properties.minor);
}

void* CudaBackend::allocate(std::size_t bytes) {
  void* const data = cuda::allocate_device(bytes, stream_);
  check_cuda(cudaMemsetAsync(data, 0, bytes, stream_), "cudaMemsetAsync", "{} bytes", bytes);
  return data;
}

void CudaBackend::deallocate(void* data, std::size_t) noexcept {
  if (data != nullptr) cudaFreeAsync(data, stream_);
}

void CudaBackend::synchronize() {
  check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  staging_.reset();
}

void CudaBackend::copy(Tensor dst, Tensor src) {
  const bool to = dst.place == Place::kCuda, from = src.place == Place::kCuda;
  if (!to && !from) fail("CUDA: copy: neither tensor lies on the device");
  const cudaMemcpyKind kind = !from ? cudaMemcpyHostToDevice
                              : !to ? cudaMemcpyDeviceToHost
                                    : cudaMemcpyDeviceToDevice;
  const auto rows = static_cast<std::size_t>(dst.rows());
  if (rows == 0) return;
  if (kind != cudaMemcpyDeviceToDevice) {
    require_not_captured(stream_, "a copy from or to the host");
    if (dst.is_contiguous() && src.is_contiguous() && dst.bytes() <= cuda::Staging::kBytes) {
      return copy_staged(dst, src, kind);
    }
  }
  if (dst.is_contiguous() && src.is_contiguous()) {
    check_cuda(cudaMemcpyAsync(dst.data, src.data, dst.bytes(), kind, stream_), "cudaMemcpyAsync",
               "{} bytes, kind {}", dst.bytes(), static_cast<int>(kind));
  } else {
    check_cuda(cudaMemcpy2DAsync(dst.data, pitch(dst), src.data, pitch(src), width(dst), rows, kind,
                                 stream_),
               "cudaMemcpy2DAsync", "{} x {} bytes, kind {}", rows, width(dst),
               static_cast<int>(kind));
  }
  if (kind != cudaMemcpyDeviceToDevice) synchronize();
}

void CudaBackend::copy_staged(Tensor dst, Tensor src, cudaMemcpyKind kind) {
  const std::size_t bytes = dst.bytes();
  const bool to_device = kind == cudaMemcpyHostToDevice;
  void* const memory = staging_.take(bytes);
  if (to_device) std::memcpy(memory, src.data, bytes);
  check_cuda(cudaMemcpyAsync(to_device ? dst.data : memory, to_device ? memory : src.data, bytes,
                             kind, stream_),
             "cudaMemcpyAsync", "{} bytes, kind {}", bytes, static_cast<int>(kind));
  if (to_device) return;
  synchronize();
  std::memcpy(dst.data, memory, bytes);
}

void CudaBackend::zero(Tensor dst) {
  cuda::require_device(dst);
  if (dst.numel() == 0) return;
  if (dst.is_contiguous()) {
    check_cuda(cudaMemsetAsync(dst.data, 0, dst.bytes(), stream_), "cudaMemsetAsync", "{} bytes",
               dst.bytes());
    return;
  }
  check_cuda(cudaMemset2DAsync(dst.data, pitch(dst), 0, width(dst),
                               static_cast<std::size_t>(dst.rows()), stream_),
             "cudaMemset2DAsync", "{} x {} bytes", dst.rows(), width(dst));
}

void CudaBackend::cast(Tensor dst, Tensor src) {
  cuda::require_device(dst);
  cuda::require_device(src);
  if (dst.dtype == src.dtype) return copy(dst, src);
  const auto run = [&]<typename To, typename From>(const To& to, const From& from) {
    for_each("cast", dst.rows(), dst.cols(), Cast<To, From>{to, from});
  };
  const cuda::FloatRows to = cuda::rows_of(dst), from = cuda::rows_of(src);
  if (!cuda::suit_vectors(dst.cols(), dst, src)) return run(to, from);
  const auto wide = [](const cuda::FloatRows& rows) {
    return cuda::TypedRows<float>{static_cast<float*>(rows.data), rows.stride};
  };
  const auto narrow = [](const cuda::FloatRows& rows) {
    return cuda::TypedRows<std::uint16_t>{static_cast<std::uint16_t*>(rows.data), rows.stride};
  };
  if (to.bf16) {
    run(narrow(to), wide(from));
  } else {
    run(wide(to), narrow(from));
  }
}

namespace cuda {

void require_device(const Tensor& tensor) {
  if (tensor && tensor.place != Place::kCuda) {
    fail("CUDA: a kernel was given a tensor {} in the host's memory", tensor.shape.to_string());
  }
}

const void* device_twin(const Tensor& on_device) {
  require_device(on_device);
  if (!on_device) fail("CUDA: a kernel was given spans, keys or factors that lie on the host only");
  return on_device.data;
}

ProductDevice product_device(int device) {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties", "{}", device);
  constexpr bool kBuiltForWarpgroups = QUEST_CUDA_WARPGROUPS != 0;
  ProductDevice product{properties.multiProcessorCount};
  product.has_warpgroups = kBuiltForWarpgroups && properties.major == 9 && properties.minor == 0;
  if (product.has_warpgroups) product.encode_map = find_tensor_map_encoder();
  return product;
}

FloatRows rows_of(const Tensor& tensor) {
  require_device(tensor);
  return {tensor.data, tensor.row_stride, tensor.dtype == DType::kBF16};
}

}  // namespace cuda

std::unique_ptr<Backend> make_cuda_backend(int device) {
  return std::make_unique<CudaBackend>(device);
}

}  // namespace quest
