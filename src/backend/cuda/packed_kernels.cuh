// Kernels that read codes as they lie in a packed file: eight codes of b bits are b whole bytes.
#pragma once

#include "backend/cuda/tile_product.cuh"

namespace quest::cuda {

/// Rows of packed codes; see quant/packing.h.
struct PackedCodes {
  const std::uint8_t* bytes;
  std::int64_t stride, row_bytes;
  int bits;

  /// Codes 8 u .. 8 u + 7 of a row, as unsigned numbers of `bits` bits from the lowest on; what
  /// lies behind the row's end is 0.
  __device__ std::uint64_t eight(std::int64_t row, std::int64_t u) const {
    const std::uint8_t* const from = bytes + row * stride;
    std::uint64_t word = 0;
    for (int i = 0; i < bits; ++i) {
      const std::int64_t at = u * bits + i;
      if (at < row_bytes) word |= static_cast<std::uint64_t>(from[at]) << 8 * i;
    }
    return word;
  }
  /// Code i < 8 of such a word.
  __device__ int code(std::uint64_t word, int i) const {
    return static_cast<int>(word >> i * bits & ((1u << bits) - 1)) - (1 << (bits - 1));
  }
};

/// codes = the rows of `packed`, `stride` bytes apart, a multiple of 8; column = u, for eight
/// codes.
struct Unpack {
  std::int8_t* codes;
  PackedCodes packed;
  std::int64_t stride;
  __device__ void operator()(std::int64_t row, std::int64_t u) const {
    const std::uint64_t word = packed.eight(row, u);
    for (int i = 0; i < 8; ++i) {
      codes[row * stride + 8 * u + i] = static_cast<std::int8_t>(packed.code(word, i));
    }
  }
};

/// Values of packed rows at tokens, for rotation: a source of row_sources.cuh.
struct PackedTokenSource {
  PackedCodes table;
  const float* steps;
  const std::int32_t* tokens;
  __device__ bool exact_squares() const { return false; }
  __device__ float load(std::int64_t row, std::int64_t column) const {
    const std::int32_t token = tokens[row];
    const int code = table.code(table.eight(token, column / 8), static_cast<int>(column % 8));
    return (static_cast<float>(code) + 0.5f) * steps[token];
  }
};

/// Rows of x that one pass over the weights serves.
inline constexpr int kPackedRows = 16;

/// write(i, n, sum of codes) for up to 16 rows of x a block and one row n of w a warp: every
/// weight is unpacked once, in registers. Grid: eights of columns, then the next rows.
__global__ void __launch_bounds__(256)
    packed_codes_kernel(CodeWords x, PackedCodes w, WriteQuantized write, std::int64_t rows,
                        std::int64_t columns, std::int64_t summed) {
  follow_last_kernel();
  const std::int64_t eights = (columns + 7) / 8;
  const std::int64_t n = blockIdx.x % eights * 8 + threadIdx.x / kWarp;
  const std::int64_t first = blockIdx.x / eights * kPackedRows;
  if (n >= columns) return;
  std::int32_t sums[kPackedRows] = {};
  for (std::int64_t u = threadIdx.x % kWarp; 8 * u < summed; u += kWarp) {
    const std::uint64_t word = w.eight(n, u);
    unsigned low = 0, high = 0;
    for (int i = 0; i < 4; ++i) {
      low |= static_cast<unsigned>(w.code(word, i) & 0xff) << 8 * i;
      high |= static_cast<unsigned>(w.code(word, i + 4) & 0xff) << 8 * i;
    }
    const bool whole = 8 * u + 4 < summed;
    for (int i = 0; i < kPackedRows; ++i) {
      if (first + i >= rows) break;
      sums[i] = __dp4a(x.value(first + i, 2 * u), static_cast<int>(low), sums[i]);
      if (whole) sums[i] = __dp4a(x.value(first + i, 2 * u + 1), static_cast<int>(high), sums[i]);
    }
  }
  for (int i = 0; i < kPackedRows; ++i) {
    if (first + i >= rows) break;
    const std::int32_t sum = warp_join(sums[i], Plus());
    if (threadIdx.x % kWarp == 0) write(first + i, n, sum);
  }
}

/// As above for rotated rows x in f32: write(i, n, step_n * sum of x (q + 1/2)).
__global__ void __launch_bounds__(256)
    packed_floats_kernel(FloatRows x, PackedCodes w, const float* steps, WriteSum write,
                         std::int64_t rows, std::int64_t columns, std::int64_t summed) {
  follow_last_kernel();
  const std::int64_t eights = (columns + 7) / 8;
  const std::int64_t n = blockIdx.x % eights * 8 + threadIdx.x / kWarp;
  const std::int64_t first = blockIdx.x / eights * kPackedRows;
  if (n >= columns) return;
  float sums[kPackedRows] = {};
  for (std::int64_t u = threadIdx.x % kWarp; 8 * u < summed; u += kWarp) {
    const std::uint64_t word = w.eight(n, u);
    for (int c = 0; c < 8 && 8 * u + c < summed; ++c) {
      const float level = static_cast<float>(w.code(word, c)) + 0.5f;
      for (int i = 0; i < kPackedRows; ++i) {
        if (first + i >= rows) break;
        sums[i] = fmaf(x.load(first + i, 8 * u + c), level, sums[i]);
      }
    }
  }
  for (int i = 0; i < kPackedRows; ++i) {
    if (first + i >= rows) break;
    const float sum = warp_join(sums[i], Plus());
    if (threadIdx.x % kWarp == 0) write(first + i, n, sum * steps[n]);
  }
}

}  // namespace quest::cuda
