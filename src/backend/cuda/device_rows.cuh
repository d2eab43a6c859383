// Float rows as kernels see them, and sums over the threads of a block.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/kernel_order.cuh"

namespace quest::cuda {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline float bf16_to_float(std::uint16_t bits) {
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

/// Rounds to nearest even; a NaN stays a NaN. As to_bfloat16.
__device__ inline std::uint16_t float_to_bf16(float value) {
  const unsigned bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// Rows of f32 or bf16. The type is looked at on each access: it is the same for all threads.
struct FloatRows {
  void* data;
  std::int64_t stride;
  bool bf16;

  __device__ float load(std::int64_t row, std::int64_t column) const {
    const std::int64_t at = row * stride + column;
    return bf16 ? bf16_to_float(static_cast<const std::uint16_t*>(data)[at])
                : static_cast<const float*>(data)[at];
  }
  /// Rounds to the type of the rows.
  __device__ void store(std::int64_t row, std::int64_t column, float value) const {
    const std::int64_t at = row * stride + column;
    if (bf16) {
      static_cast<std::uint16_t*>(data)[at] = float_to_bf16(value);
    } else {
      static_cast<float*>(data)[at] = value;
    }
  }
  /// = or +=.
  __device__ void write(std::int64_t row, std::int64_t column, float value, bool add) const {
    store(row, column, add ? load(row, column) + value : value);
  }
  /// The value that a store of `value` leaves.
  __device__ float rounded(float value) const {
    return bf16 ? bf16_to_float(float_to_bf16(value)) : value;
  }
};

struct Plus {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
/// The larger; NaN where either is.
struct Larger {
  __device__ float operator()(float a, float b) const { return a >= b || a != a ? a : b; }
};
struct Smaller {
  __device__ std::int32_t operator()(std::int32_t a, std::int32_t b) const { return a < b ? a : b; }
};

/// `value` of every lane joined, in every lane. `op` must commute to the bit.
template <typename T, typename Op>
__device__ T warp_join(T value, Op op) {
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    value = op(value, __shfl_xor_sync(kAllLanes, value, lanes));
  }
  return value;
}

/// `value` of every thread of the block joined, in every thread; the block has whole warps. The
/// order does not depend on anything but the number of threads.
template <typename T, typename Op>
__device__ T block_join(T value, Op op) {
  __shared__ T parts[32];
  value = warp_join(value, op);
  __syncthreads();  // An earlier call's parts have been read.
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = value;
  __syncthreads();
  T total = parts[0];
  for (unsigned warp = 1; warp < blockDim.x / kWarp; ++warp) total = op(total, parts[warp]);
  return total;
}

/// Threads of a block of `for_each_kernel`.
inline constexpr unsigned kElementThreads = 256;

/// Columns that a call of a body of `for_each` covers: its kWidth, or one.
template <typename Body>
inline constexpr int kBodyWidth = 1;
template <typename Body>
requires requires { Body::kWidth; }
inline constexpr int kBodyWidth<Body> = Body::kWidth;

/// body(row, column) for each element, or each kWidth-th where the body takes so many; these divide
/// the columns. `column_blocks` blocks of threads a row.
template <typename Body>
__global__ void __launch_bounds__(kElementThreads)
    for_each_kernel(Body body, std::int64_t columns, unsigned column_blocks) {
  follow_last_kernel();
  const unsigned row = blockIdx.x / column_blocks;
  const unsigned column_block = blockIdx.x - row * column_blocks;
  const std::int64_t column =
      (std::int64_t{column_block} * kElementThreads + threadIdx.x) * kBodyWidth<Body>;
  if (column < columns) body(std::int64_t{row}, column);
}

}  // namespace quest::cuda
