// Maps of tensors (CUtensorMap): what copies of tiles (tensor_copy.cuh) have to know of a tensor in
// device memory. The driver makes them on the host; kernels get them by value.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <optional>
#include <span>

namespace quest::cuda {

/// The driver's cuTensorMapEncodeTiled.
using TensorMapEncoder = decltype(&cuTensorMapEncodeTiled);
/// As this driver has it, or null.
TensorMapEncoder find_tensor_map_encoder();

/// A dimension of a tensor of bytes: places, bytes from one to the next, places that a copy takes.
struct MapDimension {
  std::int64_t size, stride;
  int box;
};
/// The map of a tensor at `data`, the innermost dimension first, of which a copy takes boxes of 128
/// bytes a line, with the 128-byte swizzle; places outside are zeros. `data` and all strides are
/// multiples of 16. Nothing where the driver refuses.
std::optional<CUtensorMap> tensor_map(TensorMapEncoder encode, const void* data,
                                      std::span<const MapDimension> dimensions);

}  // namespace quest::cuda
