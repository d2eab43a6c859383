// One product kernel for everything that no library multiplies: 64 x 64 outputs a block of threads,
// 4 x 4 a thread, both factors by way of shared memory. What is multiplied, and what becomes of the
// sums, are parameters.
#pragma once

#include "backend/cuda/product_outputs.cuh"

namespace quest::cuda {

inline constexpr unsigned kTile = 64;
inline constexpr unsigned kTileDepth = 16;
inline constexpr unsigned kTileThreads = 256;

// --- Factors: value(i, s) of output row (or column) i at place s of the sum ---
// `kAlongSum` says which of the two neighbours in memory: threads load in that order.

/// rows[i][s] of a float tensor.
struct FloatsByRow {
  using Value = float;
  static constexpr bool kAlongSum = true;
  FloatRows rows;
  __device__ float value(std::int64_t i, std::int64_t s) const { return rows.load(i, s); }
};
/// rows[s][i] of a float tensor.
struct FloatsByColumn {
  using Value = float;
  static constexpr bool kAlongSum = false;
  FloatRows rows;
  __device__ float value(std::int64_t i, std::int64_t s) const { return rows.load(s, i); }
};
/// Four codes of row i as one word, zeros beyond the row's end.
struct CodeWords {
  using Value = std::int32_t;
  static constexpr bool kAlongSum = true;
  const std::int8_t* codes;
  std::int64_t stride, columns;
  bool aligned;  ///< rows begin at words, and hold whole ones
  __device__ std::int32_t value(std::int64_t i, std::int64_t s) const {
    const std::int8_t* const row = codes + i * stride;
    if (aligned) return reinterpret_cast<const std::int32_t*>(row)[s];
    unsigned word = 0;
    for (int b = 0; b < 4; ++b) {
      if (4 * s + b >= columns) break;
      word |= static_cast<unsigned>(row[4 * s + b] & 0xff) << 8 * b;
    }
    return static_cast<std::int32_t>(word);
  }
};
/// 2 q + 1 of codes[s][i].
struct OddCodesByColumn {
  using Value = std::int32_t;
  static constexpr bool kAlongSum = false;
  const std::int8_t* codes;
  std::int64_t stride;
  __device__ std::int32_t value(std::int64_t i, std::int64_t s) const {
    return 2 * codes[s * stride + i] + 1;
  }
};
/// g[i][s] or g[s][i] of integers of 8 bits.
template <bool kByRow>
struct RoundedGradients {
  using Value = std::int32_t;
  static constexpr bool kAlongSum = kByRow;
  const std::int8_t* g;
  std::int64_t stride;
  __device__ std::int32_t value(std::int64_t i, std::int64_t s) const {
    return kByRow ? g[i * stride + s] : g[s * stride + i];
  }
};

// --- Multiplication ---

struct Fma {
  __device__ static float add(float sum, float a, float b) { return fmaf(a, b, sum); }
};
/// Exact as long as the sum fits 32 bits.
struct MultiplyIntegers {
  __device__ static std::int32_t add(std::int32_t sum, std::int32_t a, std::int32_t b) {
    return sum + a * b;
  }
};
/// Four codes by four codes.
struct DotWords {
  __device__ static std::int32_t add(std::int32_t sum, std::int32_t a, std::int32_t b) {
    return __dp4a(a, b, sum);
  }
};

/// Puts values (first + 0..63, place + 0..15) of a factor at tile[place][row].
template <typename Factor>
__device__ void load_tile(typename Factor::Value (&tile)[kTileDepth][kTile + 4],
                          const Factor& factor, std::int64_t first, std::int64_t count,
                          std::int64_t place, std::int64_t summed) {
  for (unsigned t = threadIdx.x; t < kTile * kTileDepth; t += kTileThreads) {
    const unsigned row = Factor::kAlongSum ? t / kTileDepth : t % kTile;
    const unsigned depth = Factor::kAlongSum ? t % kTileDepth : t / kTile;
    const bool inside = first + row < count && place + depth < summed;
    tile[depth][row] =
        inside ? factor.value(first + row, place + depth) : typename Factor::Value(0);
  }
}

/// write(i, j, sum over s of left(i, s) right(j, s)) for i < rows, j < columns. Grid: tiles, those
/// of the same rows one after the other.
template <typename Multiply, typename Left, typename Right, typename Write>
__global__ void __launch_bounds__(kTileThreads)
    tile_product_kernel(Left left, Right right, Write write, std::int64_t rows,
                        std::int64_t columns, std::int64_t summed) {
  follow_last_kernel();
  using Value = typename Left::Value;
  __shared__ Value lefts[kTileDepth][kTile + 4], rights[kTileDepth][kTile + 4];
  const std::int64_t column_tiles = (columns + kTile - 1) / kTile;
  const std::int64_t first_row = blockIdx.x / column_tiles * kTile;
  const std::int64_t first_column = blockIdx.x % column_tiles * kTile;
  const unsigned row = threadIdx.x / 16, column = threadIdx.x % 16;
  Value sums[4][4] = {};
  for (std::int64_t place = 0; place < summed; place += kTileDepth) {
    load_tile(lefts, left, first_row, rows, place, summed);
    load_tile(rights, right, first_column, columns, place, summed);
    __syncthreads();
    for (unsigned s = 0; s < kTileDepth; ++s) {
      // Sums that are not named by constants would be kept in memory.
#pragma unroll
      for (unsigned i = 0; i < 4; ++i) {
#pragma unroll
        for (unsigned j = 0; j < 4; ++j) {
          sums[i][j] =
              Multiply::add(sums[i][j], lefts[s][row + 16 * i], rights[s][column + 16 * j]);
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
#pragma unroll
    for (unsigned j = 0; j < 4; ++j) {
      const std::int64_t r = first_row + row + 16 * i, c = first_column + column + 16 * j;
      if (r < rows && c < columns) write(r, c, sums[i][j]);
    }
  }
}

}  // namespace quest::cuda
