// Kernels of gradient rounding: largest values of lines, and integers with the bits that
// quant/gradient_rounding.h defines.
//
// A thread takes of a row what one Philox block serves: of 256 columns the pairs 2 i, 2 i + 1 of
// each 32, where i is its place among 16 threads. These read and write whole sectors together, and
// no bit passes from thread to thread.
#pragma once

#include "backend/cuda/float_vectors.cuh"
#include "core/philox_constants.h"

namespace quest::cuda {

/// Columns that one Philox block serves, and those of the threads that take 16 such blocks.
inline constexpr int kServedColumns = 16, kGroupColumns = 256;
inline constexpr unsigned kGroupThreads = 16;

/// Words of a Philox block.
struct PhiloxWords {
  unsigned w[4];
};

/// Philox 4x32-10 of {block, row, 0, 0}; as philox4x32.
__device__ __forceinline__ PhiloxWords philox(unsigned block, unsigned row, unsigned key0,
                                              unsigned key1) {
  PhiloxWords c{{block, row, 0, 0}};
#pragma unroll
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const std::uint64_t product0 = std::uint64_t{kPhiloxMultiplier0} * c.w[0];
    const std::uint64_t product1 = std::uint64_t{kPhiloxMultiplier1} * c.w[2];
    c = {{static_cast<unsigned>(product1 >> 32) ^ c.w[1] ^ key0, static_cast<unsigned>(product1),
          static_cast<unsigned>(product0 >> 32) ^ c.w[3] ^ key1, static_cast<unsigned>(product0)}};
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  return c;
}

/// See LineRounding::make. The inverse of the scale is rounded towards 0, and 2^16 times it is what
/// is called to_fixed there: products with either have the same digits.
__device__ __forceinline__ float line_scale(float largest) {
  if (!(largest <= 3.402823466e38f)) return nanf("");
  return largest < 0x1p-100f ? 0.0f : largest / 127.0f;
}
__device__ __forceinline__ float line_inverse(float largest) {
  if (!(largest <= 3.402823466e38f) || largest < 0x1p-100f) return 0.0f;
  const float inverse = 127.0f / largest;
  // The sign is that of the exact difference. One step towards 0 is one less in the bits.
  const bool above = fmaf(inverse, largest, -127.0f) > 0.0f;
  return __uint_as_float(__float_as_uint(inverse) - (above ? 1u : 0u));
}

/// A value in units of its line's scale, rounded with bits of `word` to the integer that is the
/// lowest byte of the result; `turn` and `half` say which 16 bits (see rounding_bits). Anything
/// where the value is NaN, as in broken lines, whose scale is NaN.
__device__ __forceinline__ unsigned rounded(float value, unsigned word, int turn, int half) {
  // Floats of 128 to 256 are multiples of 2^-16.
  const float size = (fabsf(value) + 128.0f) - 128.0f;
  const float nearest = copysignf(size, value);
  const unsigned selector =
      turn == 0 ? (half == 0 ? 0x7410u : 0x7432u) : (half == 0 ? 0x7421u : 0x7403u);
  const float bits = __uint_as_float(__byte_perm(word, 0x43000000u, selector));  // 128 + u / 2^16
  // The sum is exact and at least 1. Above 2^23, floats are whole numbers.
  return __float_as_uint(__fadd_rz(nearest + bits, 0x1p23f + 128.0f));
}

/// values[2 k + h] = at[32 k + h], of which `left` columns exist; zeros elsewhere. kPairs: pairs
/// begin at multiples of their size, and `left` is even.
template <bool kWhole, bool kPairs, typename T>
__device__ __forceinline__ void load_existing(float (&values)[kServedColumns], const T* at,
                                              int left) {
#pragma unroll
  for (int k = 0; k < kServedColumns / 2; ++k) {
    float low = 0.0f, high = 0.0f;
    if constexpr (kPairs && sizeof(T) == 4) {
      if (kWhole || 32 * k < left) {
        const uint2 two = *reinterpret_cast<const uint2*>(at + 32 * k);
        low = __uint_as_float(two.x);
        high = __uint_as_float(two.y);
      }
    } else if constexpr (kPairs) {
      if (kWhole || 32 * k < left) {
        unpack_bf16_pair(low, high, *reinterpret_cast<const unsigned*>(at + 32 * k));
      }
    } else {
      float one[1];
      if (kWhole || 32 * k < left) {
        load_values(one, at + 32 * k);
        low = one[0];
      }
      if (kWhole || 32 * k + 1 < left) {
        load_values(one, at + 32 * k + 1);
        high = one[0];
      }
    }
    values[2 * k] = low;
    values[2 * k + 1] = high;
  }
}
template <bool kPairs, typename T>
__device__ __forceinline__ void load_served(float (&values)[kServedColumns], const T* at,
                                            int left) {
  if (left >= kGroupColumns - 30) {  // all, for each thread of the group
    load_existing<true, kPairs>(values, at, left);
  } else {
    load_existing<false, kPairs>(values, at, left);
  }
}

/// at[32 k .. 32 k + 1] = lowest bytes of codes[2 k], codes[2 k + 1], where the first exists.
__device__ __forceinline__ void store_served(std::int8_t* at,
                                             const unsigned (&codes)[kServedColumns], int left) {
#pragma unroll
  for (int k = 0; k < kServedColumns / 2; ++k) {
    if (32 * k >= left) continue;
    *reinterpret_cast<std::uint16_t*>(at + 32 * k) =
        static_cast<std::uint16_t>(__byte_perm(codes[2 * k], codes[2 * k + 1], 0x40u));
  }
}

/// The largest of all threads' values, none of which is negative; NaN where there is one. Once a
/// block.
__device__ __forceinline__ float block_largest(float value) {
  __shared__ unsigned parts[kWarp];
  const unsigned lane = threadIdx.x % kWarp;
  // Bits of floats are in the floats' order, and NaN is above all.
  const unsigned largest = __reduce_max_sync(kAllLanes, __float_as_uint(value));
  if (lane == 0) parts[threadIdx.x / kWarp] = largest;
  __syncthreads();
  const unsigned part = lane < blockDim.x / kWarp ? parts[lane] : 0u;
  return __uint_as_float(__reduce_max_sync(kAllLanes, part));
}

/// Where integers go. Rows begin at multiples of 16 bytes; what lies behind their ends is
/// undefined.
struct RoundedOut {
  std::int8_t* g;
  std::int64_t stride;
};

/// Groups of columns that each 16 threads of round_rows_kernel take of a row.
inline constexpr int kRowParts = 2;

/// G = d_y times half the step of its column; g and scales of its rows. One block a row, which
/// stays in registers: kRowParts groups for each 16 threads. kPairs: see load_existing; also of
/// steps.
template <bool kPairs, typename T>
__global__ void __launch_bounds__(1024)
    round_rows_kernel(TypedRows<T> d_y, const float* steps, RoundedOut out, float* scales,
                      int columns, const unsigned* key) {
  follow_last_kernel();
  const T* const row = d_y.data + blockIdx.x * d_y.stride;
  const unsigned place = threadIdx.x % kGroupThreads, key0 = key[0], key1 = key[1];
  float values[kRowParts][kServedColumns];
  PhiloxWords words[kRowParts];
  int first[kRowParts];
  float largest = 0.0f;
#pragma unroll
  for (int part = 0; part < kRowParts; ++part) {
    const unsigned group = threadIdx.x / kGroupThreads + part * (blockDim.x / kGroupThreads);
    first[part] = static_cast<int>(group * kGroupColumns + 2 * place);
    const int left = columns - first[part];
    float of_columns[kServedColumns];
    load_served<kPairs>(values[part], row + first[part], left);
    load_served<kPairs>(of_columns, steps + first[part], left);
    words[part] = philox(group * kGroupThreads + place, blockIdx.x, key0, key1);
#pragma unroll
    for (int i = 0; i < kServedColumns; ++i) {
      values[part][i] *= 0.5f * of_columns[i];
      largest = larger_or_nan(largest, fabsf(values[part][i]));
    }
  }
  largest = block_largest(largest);
  if (threadIdx.x == 0) scales[blockIdx.x] = line_scale(largest);
  const float inverse = line_inverse(largest);
  std::int8_t* const to = out.g + blockIdx.x * out.stride;
#pragma unroll
  for (int part = 0; part < kRowParts; ++part) {
    unsigned codes[kServedColumns];
#pragma unroll
    for (int i = 0; i < kServedColumns; ++i) {
      codes[i] = rounded(values[part][i] * inverse, words[part].w[i / 4], i / 2 % 2, i % 2);
    }
    store_served(to + first[part], codes, columns - first[part]);
  }
}

inline constexpr int kStripRows = 64;  // whose largest values are joined at once

/// parts[strip][n] = largest |G| of column n in a strip of rows of d_y, where G is d_y times half
/// the step of its row. A warp has 32 kCount columns and every eighth row; kCount is 1, or 8 where
/// it divides `columns` and rows begin at multiples of 16 bytes. Grid: `column_blocks` a strip.
template <int kCount, typename T>
__global__ void __launch_bounds__(256)
    column_largest_kernel(TypedRows<T> d_y, const float* steps, float* parts, int rows, int columns,
                          unsigned column_blocks) {
  follow_last_kernel();
  constexpr int kColumns = kCount * static_cast<int>(kWarp), kWarps = 8;
  __shared__ __align__(16) float of_warps[kWarps][kColumns];
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int warp = static_cast<int>(threadIdx.x / kWarp);
  const unsigned strip = blockIdx.x / column_blocks;
  const int first = static_cast<int>(blockIdx.x % column_blocks) * kColumns;
  const int row = static_cast<int>(strip) * kStripRows + warp, column = first + lane * kCount;
  float largest[kCount] = {};
  if (column < columns) {
#pragma unroll
    for (int i = 0; i < kStripRows; i += kWarps) {
      const int r = row + i < rows ? row + i : rows - 1;  // the last may be looked at again
      float values[kCount];
      load_values(values, d_y.data + r * d_y.stride + column);
      const float half_step = 0.5f * steps[r];
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        largest[j] = larger_or_nan(largest[j], fabsf(values[j] * half_step));
      }
    }
  }
  store_values(&of_warps[warp][lane * kCount], largest);
  __syncthreads();
  const int mine = static_cast<int>(threadIdx.x);
  if (mine >= kColumns || first + mine >= columns) return;
  float joined = of_warps[0][mine];
#pragma unroll
  for (int i = 1; i < kWarps; ++i) joined = larger_or_nan(joined, of_warps[i][mine]);
  parts[strip * static_cast<std::int64_t>(columns) + first + mine] = joined;
}

/// scales[n] and inverses[n] of columns from the largest values of their strips: 32 columns a
/// block, a warp every eighth strip.
__global__ void __launch_bounds__(256)
    column_lines_kernel(const float* parts, float* scales, float* inverses, int strips,
                        int columns) {
  follow_last_kernel();
  constexpr int kWarps = 8;
  __shared__ float of_warps[kWarps][kWarp];
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int warp = static_cast<int>(threadIdx.x / kWarp);
  const int n = static_cast<int>(blockIdx.x * kWarp) + lane;
  float largest = 0.0f;
#pragma unroll 4
  for (int strip = warp; n < columns && strip < strips; strip += kWarps) {
    largest = larger_or_nan(largest, parts[strip * static_cast<std::int64_t>(columns) + n]);
  }
  of_warps[warp][lane] = largest;
  __syncthreads();
  if (warp != 0 || n >= columns) return;
#pragma unroll
  for (int i = 1; i < kWarps; ++i) largest = larger_or_nan(largest, of_warps[i][lane]);
  scales[n] = line_scale(largest);
  inverses[n] = line_inverse(largest);
}

inline constexpr int kRoundedTileRows = 64;

/// g = G rounded, or g^T: G is d_y times half the step of its row, of lines that are columns. Grid:
/// tiles of 64 rows and 256 columns; a thread has four rows of 16 columns, and so a word of each
/// column. d_y and steps begin at row `first_row` of the matrix that `key` names.
template <bool kTransposed, bool kPairs, typename T>
__global__ void __launch_bounds__(256)
    round_columns_kernel(TypedRows<T> d_y, const float* steps, const float* inverses,
                         RoundedOut out, unsigned first_row, int rows, int columns,
                         const unsigned* key) {
  follow_last_kernel();
  constexpr int kRows = 4, kWords = kRoundedTileRows / kRows;
  const auto groups = static_cast<unsigned>(columns + kGroupColumns - 1) / kGroupColumns;
  const unsigned group = blockIdx.x % groups, place = threadIdx.x % kGroupThreads;
  const int word = static_cast<int>(threadIdx.x / kGroupThreads);
  const int first = static_cast<int>(group * kGroupColumns + 2 * place), left = columns - first;
  const int tile_row = static_cast<int>(blockIdx.x / groups) * kRoundedTileRows;
  const int row = tile_row + kRows * word;
  const unsigned key0 = key[0], key1 = key[1];
  float inverse[kServedColumns];
  load_served<kPairs>(inverse, inverses + first, left);
  unsigned of_columns[kServedColumns] = {};
#pragma unroll 2
  for (int i = 0; i < kRows; ++i) {
    const int r = row + i < rows ? row + i : rows - 1;  // what is behind the last may be anything
    float values[kServedColumns];
    load_served<kPairs>(values, d_y.data + r * d_y.stride + first, left);
    const float half_step = 0.5f * steps[r];
    const PhiloxWords words =
        philox(group * kGroupThreads + place, first_row + static_cast<unsigned>(r), key0, key1);
    unsigned codes[kServedColumns];
#pragma unroll
    for (int j = 0; j < kServedColumns; ++j) {
      codes[j] = rounded(values[j] * half_step * inverse[j], words.w[j / 4], j / 2 % 2, j % 2);
      if constexpr (kTransposed) of_columns[j] = __byte_perm(of_columns[j], codes[j], 0x4321u);
    }
    if constexpr (!kTransposed) store_served(out.g + r * out.stride + first, codes, left);
  }
  if constexpr (kTransposed) {
    // A word more than a line has: pairs of 16 threads, and of 16 beside them, in all banks.
    __shared__ unsigned tile[kGroupColumns][kWords + 1];
#pragma unroll
    for (int i = 0; i < kServedColumns; ++i) {
      tile[2 * place + 32 * (i / 2) + i % 2][word] = of_columns[i];
    }
    __syncthreads();
    const unsigned mine = threadIdx.x % kWords, line = threadIdx.x / kWords;
    const int at = tile_row + kRows * static_cast<int>(mine);
    if (at >= out.stride) return;
    const int begin = static_cast<int>(group * kGroupColumns + line);
    std::int8_t* g = out.g + begin * out.stride + at;
    constexpr int kLines = 256 / kWords;  // that a block writes at once
#pragma unroll
    for (int i = 0; i < kGroupColumns; i += kLines, g += kLines * out.stride) {
      if (begin + i < columns) *reinterpret_cast<unsigned*>(g) = tile[line + i][mine];
    }
  }
}

}  // namespace quest::cuda
