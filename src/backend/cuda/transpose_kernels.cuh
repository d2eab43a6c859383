// Codes by columns as factors by rows, for instructions that take no others.
#pragma once

#include "backend/cuda/code_tiles.cuh"

namespace quest::cuda {

inline constexpr int kTransposedLines = 128;  // of a block, either way

/// Four codes q of seven bits as 2 q + 1.
__device__ inline unsigned odd_codes(unsigned four) {
  return (four & 0x7f7f7f7fu) << 1 | 0x01010101u;
}

/// out[j][s] = 2 codes[s][j] + 1, for codes of at most seven bits. Rows of `out` are `stride` bytes
/// apart, a multiple of 4; what lies there behind its `summed` places is undefined. Grid: tiles of
/// 128 x 128. A thread turns 4 x 4 bytes at a time.
__global__ void __launch_bounds__(256)
    transpose_odd_kernel(CodeColumns codes, std::int8_t* out, std::int64_t summed,
                         std::int64_t stride) {
  follow_last_kernel();
  constexpr int kWords = kTransposedLines / 4;
  __shared__ unsigned tile[kTransposedLines][kWords + 1];  // by columns of codes
  const auto across =
      static_cast<unsigned>((codes.count + kTransposedLines - 1) / kTransposedLines);
  const std::int64_t first_column = std::int64_t{blockIdx.x % across} * kTransposedLines;
  const std::int64_t first_place = std::int64_t{blockIdx.x / across} * kTransposedLines;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const auto word_at = [&](std::int64_t place, std::int64_t column) {
    if (place >= summed || column >= codes.count) return 0u;
    const std::int8_t* const at = codes.codes + place * codes.stride + column;
    if (column + 4 <= codes.count) return odd_codes(*reinterpret_cast<const unsigned*>(at));
    unsigned word = 0;
    for (int i = 0; column + i < codes.count; ++i) {
      word |= unsigned{static_cast<std::uint8_t>(at[i])} << 8 * i;
    }
    return odd_codes(word);
  };
  // A warp takes 8 x 4 squares at a time: 32 bytes of a row, and no bank twice.
  for (int square = warp; square < kWords * kWords / 32; square += 8) {
    const int across4 = square % 4 * 8 + lane % 8, down4 = square / 4 * 4 + lane / 8;
    unsigned rows[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      rows[i] = word_at(first_place + 4 * down4 + i, first_column + 4 * across4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Two columns of rows 0 and 1, and of rows 2 and 3.
      const unsigned selector = half == 0 ? 0x5140u : 0x7362u;
      const unsigned upper = __byte_perm(rows[0], rows[1], selector);
      const unsigned lower = __byte_perm(rows[2], rows[3], selector);
      tile[4 * across4 + 2 * half][down4] = __byte_perm(upper, lower, 0x5410u);
      tile[4 * across4 + 2 * half + 1][down4] = __byte_perm(upper, lower, 0x7632u);
    }
  }
  __syncthreads();
  for (int line = warp; line < kTransposedLines; line += 8) {
    const std::int64_t column = first_column + line, place = first_place + 4 * lane;
    if (column >= codes.count || place >= stride) continue;
    *reinterpret_cast<unsigned*>(out + column * stride + place) = tile[line][lane];
  }
}

}  // namespace quest::cuda
