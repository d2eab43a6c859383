// Maps of tensors: the driver's function, which is asked for by name so that nothing links the
// driver, and its many arguments.
#include <algorithm>

#include "backend/cuda/tensor_maps.h"

namespace quest::cuda {

TensorMapEncoder find_tensor_map_encoder() {
  constexpr unsigned kSinceCuda12 = 12000;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error = cudaGetDriverEntryPointByVersion(
      "cuTensorMapEncodeTiled", &function, kSinceCuda12, cudaEnableDefault, &found);
  if (error != cudaSuccess) cudaGetLastError();  // a driver without it is no error
  if (error != cudaSuccess || found != cudaDriverEntryPointSuccess) return nullptr;
  return reinterpret_cast<TensorMapEncoder>(function);
}

std::optional<CUtensorMap> tensor_map(TensorMapEncoder encode, const void* data,
                                      std::span<const MapDimension> dimensions) {
  constexpr std::size_t kMost = 5;
  std::uint64_t sizes[kMost] = {},
                strides[kMost] = {};  // strides: of the dimensions after the first
  std::uint32_t box[kMost] = {}, steps[kMost];
  std::fill_n(steps, kMost, 1u);
  for (std::size_t i = 0; i < dimensions.size(); ++i) {
    sizes[i] = static_cast<std::uint64_t>(dimensions[i].size);
    box[i] = static_cast<std::uint32_t>(dimensions[i].box);
    if (i > 0) strides[i - 1] = static_cast<std::uint64_t>(dimensions[i].stride);
  }
  CUtensorMap map;
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT8, static_cast<std::uint32_t>(dimensions.size()),
             const_cast<void*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) return std::nullopt;
  return map;
}

}  // namespace quest::cuda
