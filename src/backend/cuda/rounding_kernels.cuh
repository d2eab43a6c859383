// Kernels of gradient rounding: largest values of lines, and integers with the bits that
// quant/gradient_rounding.h defines.
#pragma once

#include "backend/cuda/device_rows.cuh"
#include "core/philox_constants.h"

namespace quest::cuda {

/// Words of a Philox block.
struct PhiloxWords {
  unsigned w[4];
};

/// Philox 4x32-10 of {block, row, 0, 0}; as philox4x32.
__device__ inline PhiloxWords philox(unsigned block, unsigned row, unsigned key0, unsigned key1) {
  PhiloxWords c{{block, row, 0, 0}};
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const unsigned high0 = __umulhi(kPhiloxMultiplier0, c.w[0]), low0 = kPhiloxMultiplier0 * c.w[0];
    const unsigned high1 = __umulhi(kPhiloxMultiplier1, c.w[2]), low1 = kPhiloxMultiplier1 * c.w[2];
    c = {{high1 ^ c.w[1] ^ key0, low1, high0 ^ c.w[3] ^ key1, low0}};
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  return c;
}

/// The scale of a line and its factor to fixed point; see LineRounding.
struct Line {
  float scale, to_fixed;
};

__device__ inline Line line_of(float largest) {
  constexpr float kLargestFixed = 127.0f * 65536.0f;
  constexpr float kLeastGradient = 0x1p-100f;
  if (!(largest <= 3.402823466e38f)) return {nanf(""), 0.0f};
  if (largest < kLeastGradient) return {0.0f, 0.0f};
  float factor = kLargestFixed / largest;
  // The product of two floats is exact in double. One step towards 0 is one less in the bits.
  if (double{factor} * double{largest} > double{kLargestFixed}) {
    factor = __uint_as_float(__float_as_uint(factor) - 1);
  }
  return {largest / 127.0f, factor};
}

/// G = d_y times half the step of its row or of its column.
struct FoldedGradient {
  FloatRows d_y;
  const float* steps;
  bool by_row;
  __device__ float value(std::int64_t m, std::int64_t n) const {
    return d_y.load(m, n) * (0.5f * steps[by_row ? m : n]);
  }
};

/// lines[m] of the rows of G: one block of threads a row.
__global__ void __launch_bounds__(256)
    row_lines_kernel(FoldedGradient g, float* scales, float* to_fixed, std::int64_t columns) {
  follow_last_kernel();
  const std::int64_t m = blockIdx.x;
  float largest = 0.0f;
  for (std::int64_t n = threadIdx.x; n < columns; n += blockDim.x) {
    largest = Larger()(largest, fabsf(g.value(m, n)));
  }
  const Line line = line_of(block_join(largest, Larger()));
  if (threadIdx.x == 0) {
    scales[m] = line.scale;
    to_fixed[m] = line.to_fixed;
  }
}

/// lines[n] of the columns of G over rows [begin, end): 32 columns a block, a warp every 8th row.
__global__ void __launch_bounds__(256)
    column_lines_kernel(FoldedGradient g, float* scales, float* to_fixed, std::int64_t begin,
                        std::int64_t end, std::int64_t columns) {
  follow_last_kernel();
  __shared__ float parts[8][kWarp];
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const std::int64_t n = std::int64_t{blockIdx.x} * kWarp + lane;
  float largest = 0.0f;
  for (std::int64_t m = begin + warp; n < columns && m < end; m += 8) {
    largest = Larger()(largest, fabsf(g.value(m, n)));
  }
  parts[warp][lane] = largest;
  __syncthreads();
  if (warp != 0 || n >= columns) return;
  for (int i = 1; i < 8; ++i) largest = Larger()(largest, parts[i][lane]);
  const Line line = line_of(largest);
  scales[n] = line.scale;
  to_fixed[n] = line.to_fixed;
}

/// Where integers go, and the factors of their lines: one a row, or one a column.
struct RoundedOut {
  std::int8_t* g;
  std::int64_t stride;
  const float* to_fixed;
  bool line_a_row;
};

/// Rounds what one Philox block serves of row m: the 16 columns of a group of 256 that are 2 i,
/// 2 i + 1 modulo 32. emit(column, integer); line_factor(column) is that of its line.
template <typename Factor, typename Emit>
__device__ void round_block(const FoldedGradient& g, std::int64_t m, std::int64_t block,
                            std::int64_t columns, const unsigned* key, Factor line_factor,
                            Emit emit) {
  const PhiloxWords words =
      philox(static_cast<unsigned>(block), static_cast<unsigned>(m), key[0], key[1]);
  for (int i = 0; i < 16; ++i) {
    const int word = i / 4, turn = i / 2 % 2, half = i % 2;
    const std::int64_t n = block / 16 * 256 + word * 64 + turn * 32 + block % 16 * 2 + half;
    if (n >= columns) continue;
    const unsigned bits = turn == 0 ? words.w[word] : words.w[word] >> 8 | words.w[word] << 24;
    const unsigned u = bits >> half * 16 & 0xffffu;
    const float factor = line_factor(n);
    std::int32_t value = 0;  // of lines that are zero or broken
    if (factor > 0.0f) {
      const auto fixed = static_cast<std::int32_t>(rintf(g.value(m, n) * factor));
      value = (fixed + static_cast<std::int32_t>(u)) >> 16;
    }
    emit(n, static_cast<std::int8_t>(value));
  }
}

/// g = G rounded. `first_row` is that of d_y where g begins.
__global__ void __launch_bounds__(256)
    round_gradients_kernel(FoldedGradient g, RoundedOut out, std::int64_t first_row,
                           std::int64_t columns, const unsigned* key) {
  follow_last_kernel();
  const std::int64_t r = blockIdx.x;
  const std::int64_t groups = (columns + 255) / 256;
  for (std::int64_t block = threadIdx.x; block < groups * 16; block += blockDim.x) {
    round_block(
        g, first_row + r, block, columns, key,
        [&](std::int64_t n) { return out.to_fixed[out.line_a_row ? r : n]; },
        [&](std::int64_t n, std::int8_t value) { out.g[r * out.stride + n] = value; });
  }
}

inline constexpr int kRoundedTileRows = 64, kRoundedTileColumns = 256;

/// g^T = G rounded: out.g has a row a column of G, of lines that are columns. Grid: tiles of 64
/// rows and 256 columns. What lies behind the `rows` places of a row of out.g is undefined.
__global__ void __launch_bounds__(256)
    round_transposed_kernel(FoldedGradient g, RoundedOut out, std::int64_t first_row,
                            std::int64_t rows, std::int64_t columns, const unsigned* key) {
  follow_last_kernel();
  constexpr int kWords = kRoundedTileRows / 4;
  __shared__ __align__(4) std::int8_t tile[kRoundedTileColumns][kRoundedTileRows + 4];
  const auto groups = static_cast<unsigned>((columns + 255) / 256);
  const std::int64_t group = blockIdx.x % groups;
  const std::int64_t tile_row = std::int64_t{blockIdx.x / groups} * kRoundedTileRows;
  for (int i = static_cast<int>(threadIdx.x); i < 16 * kRoundedTileRows; i += 256) {
    const int row = i / 16;
    if (tile_row + row >= rows) break;
    round_block(
        g, first_row + tile_row + row, group * 16 + i % 16, columns, key,
        [&](std::int64_t n) { return out.to_fixed[n]; },
        [&](std::int64_t n, std::int8_t value) { tile[n - group * 256][row] = value; });
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kWords * kRoundedTileColumns; i += 256) {
    const int line = i / kWords, word = i % kWords;
    const std::int64_t n = group * kRoundedTileColumns + line, place = tile_row + 4 * word;
    if (n >= columns || place >= out.stride) continue;
    *reinterpret_cast<unsigned*>(out.g + n * out.stride + place) =
        *reinterpret_cast<const unsigned*>(&tile[line][4 * word]);
  }
}

}  // namespace quest::cuda
