// Codes as the values that they stand for: a factor of a product of floats.
#pragma once

#include "backend/cuda/float_vectors.cuh"

namespace quest::cuda {

/// Rows that a thread takes, whose loads are underway together.
inline constexpr int kWidenedRows = 4;
/// Codes that a thread takes of a row where rows begin at multiples of so many bytes.
inline constexpr int kWidenedCodes = 8;
/// Threads of a block.
inline constexpr int kWidenThreads = 256;

/// q + 1/2 of byte i of a word of codes whose signs are flipped, which makes them q + 128: below
/// the leading digit of 2^15 the second byte of a float counts ones, and the first their parts.
__device__ __forceinline__ float flipped_code_level(unsigned word, int i) {
  const unsigned bits = __byte_perm(word, 0x47000080u, 0x7504u | static_cast<unsigned>(i) << 4);
  return __uint_as_float(bits) - 32896.0f;  // 2^15 + 128
}

/// out = (codes + 1/2) step, rounded to the type of out; a step a row. kCount is 1, or
/// kWidenedCodes where that divides `columns` and all rows begin at multiples of what is moved.
/// Grid: `column_blocks` blocks for each kWidenedRows rows.
template <int kCount, typename T>
__global__ void __launch_bounds__(kWidenThreads)
    widen_codes_kernel(TypedRows<const std::int8_t> codes, const float* steps, TypedRows<T> out,
                       unsigned rows, unsigned columns, unsigned column_blocks) {
  follow_last_kernel();
  constexpr int kWords = (kCount + 3) / 4;
  const unsigned column = (blockIdx.x % column_blocks * kWidenThreads + threadIdx.x) * kCount;
  const unsigned first = blockIdx.x / column_blocks * kWidenedRows;
  if (column >= columns) return;
  const int count = static_cast<int>(rows - first);
  const std::int8_t* from = codes.data + first * codes.stride + column;
  T* to = out.data + first * out.stride + column;
  steps += first;
  unsigned words[kWidenedRows][kWords];
  float step[kWidenedRows];
#pragma unroll
  for (int i = 0; i < kWidenedRows; ++i, from += codes.stride) {
    if (i >= count) continue;
    step[i] = steps[i];
    if constexpr (kCount == 1) {
      words[i][0] = static_cast<std::uint8_t>(*from);
    } else {
      const uint2 two = *reinterpret_cast<const uint2*>(from);
      words[i][0] = two.x;
      words[i][1] = two.y;
    }
  }
#pragma unroll
  for (int i = 0; i < kWidenedRows; ++i, to += out.stride) {
    if (i >= count) continue;
    float values[kCount];
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      values[j] = flipped_code_level(words[i][j / 4] ^ 0x80808080u, j % 4) * step[i];
    }
    store_values(to, values);
  }
}

}  // namespace quest::cuda
