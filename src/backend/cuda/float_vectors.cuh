// Neighbouring floats of a row at once, of a type that is known when the kernel is compiled: what
// kernels are made of whose time is memory's.
#pragma once

#include "backend/cuda/device_rows.cuh"
#include "backend/cuda/float_instructions.cuh"

namespace quest::cuda {

/// Rows of f32 (float) or bf16 (std::uint16_t).
template <typename T>
struct TypedRows {
  T* data;
  std::int64_t stride;
};

/// kCount values of f32 from `at` on. kCount is 1, 2 or a multiple of 4, and `at` a multiple of
/// min(4 kCount, 16) bytes.
template <int kCount>
__device__ __forceinline__ void load_values(float (&values)[kCount], const float* at) {
  if constexpr (kCount == 1) {
    values[0] = *at;
  } else if constexpr (kCount == 2) {
    const float2 two = *reinterpret_cast<const float2*>(at);
    values[0] = two.x;
    values[1] = two.y;
  } else {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(at + i);
      values[i] = four.x;
      values[i + 1] = four.y;
      values[i + 2] = four.z;
      values[i + 3] = four.w;
    }
  }
}
template <int kCount>
__device__ __forceinline__ void store_values(float* at, const float (&values)[kCount]) {
  if constexpr (kCount == 1) {
    *at = values[0];
  } else if constexpr (kCount == 2) {
    *reinterpret_cast<float2*>(at) = make_float2(values[0], values[1]);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      *reinterpret_cast<float4*>(at + i) =
          make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]);
    }
  }
}

/// Two values of bf16 that lie in a word.
__device__ __forceinline__ void unpack_bf16_pair(float& low, float& high, unsigned word) {
  low = __uint_as_float(word << 16);
  high = __uint_as_float(word & 0xffff0000u);
}

/// The same of bf16: kCount is 1, 2, 4 or a multiple of 8, and `at` a multiple of min(2 kCount, 16)
/// bytes. What is stored is rounded to nearest even.
template <int kCount>
__device__ __forceinline__ void load_values(float (&values)[kCount], const std::uint16_t* at) {
  if constexpr (kCount == 1) {
    values[0] = bf16_to_float(*at);
  } else if constexpr (kCount == 2) {
    unpack_bf16_pair(values[0], values[1], *reinterpret_cast<const unsigned*>(at));
  } else if constexpr (kCount == 4) {
    const uint2 words = *reinterpret_cast<const uint2*>(at);
    unpack_bf16_pair(values[0], values[1], words.x);
    unpack_bf16_pair(values[2], values[3], words.y);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; i += 8) {
      const uint4 words = *reinterpret_cast<const uint4*>(at + i);
      unpack_bf16_pair(values[i], values[i + 1], words.x);
      unpack_bf16_pair(values[i + 2], values[i + 3], words.y);
      unpack_bf16_pair(values[i + 4], values[i + 5], words.z);
      unpack_bf16_pair(values[i + 6], values[i + 7], words.w);
    }
  }
}
template <int kCount>
__device__ __forceinline__ void store_values(std::uint16_t* at, const float (&values)[kCount]) {
  if constexpr (kCount == 1) {
    *at = float_to_bf16(values[0]);
  } else if constexpr (kCount == 2) {
    *reinterpret_cast<unsigned*>(at) = bf16_pair(values[0], values[1]);
  } else if constexpr (kCount == 4) {
    *reinterpret_cast<uint2*>(at) =
        make_uint2(bf16_pair(values[0], values[1]), bf16_pair(values[2], values[3]));
  } else {
#pragma unroll
    for (int i = 0; i < kCount; i += 8) {
      *reinterpret_cast<uint4*>(at + i) = make_uint4(
          bf16_pair(values[i], values[i + 1]), bf16_pair(values[i + 2], values[i + 3]),
          bf16_pair(values[i + 4], values[i + 5]), bf16_pair(values[i + 6], values[i + 7]));
    }
  }
}

/// take(TypedRows) of the rows' type.
template <typename Take>
void with_type(const FloatRows& rows, const Take& take) {
  if (rows.bf16) {
    take(TypedRows<std::uint16_t>{static_cast<std::uint16_t*>(rows.data), rows.stride});
  } else {
    take(TypedRows<float>{static_cast<float*>(rows.data), rows.stride});
  }
}

}  // namespace quest::cuda
