// Codes by columns as factors by rows, for instructions that take no others.
#pragma once

#include "backend/cuda/code_tiles.cuh"

namespace quest::cuda {

inline constexpr int kTransposedLines = 128;  // of a block, either way

/// Four codes q of seven bits as 2 q + 1.
__device__ __forceinline__ unsigned odd_codes(unsigned four) {
  return (four << 1 & 0xfefefefeu) | 0x01010101u;
}

/// Four places of a row of codes at `at`, of which `left` exist; the others are zeros. A row begins
/// at a word.
template <bool kWhole>
__device__ __forceinline__ unsigned codes_at(const std::int8_t* at, int left) {
  if (kWhole || left >= 4) return *reinterpret_cast<const unsigned*>(at);
  unsigned word = 0;
#pragma unroll 1
  for (int i = 0; i < left; ++i) word |= unsigned{static_cast<std::uint8_t>(at[i])} << 8 * i;
  return word;
}

/// A tile of 128 x 128 codes, as 2 q + 1 by columns; `places` and `count` of it exist. A warp takes
/// 8 x 4 squares of 4 x 4 bytes at a time: 32 bytes of a row, and no bank twice.
template <bool kWhole>
__device__ __forceinline__ void transpose_tile(
    unsigned (&tile)[kTransposedLines][kTransposedLines / 4 + 1], const std::int8_t* codes,
    std::int64_t stride, int places, int count) {
  constexpr int kWords = kTransposedLines / 4, kWarps = 8;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int across = warp % 4 * 8 + lane % 8, down = warp / 4 * 4 + lane / 8;
  constexpr int kDown = kWarps / 4 * 4;  // squares from one turn of a warp to the next
  const std::int8_t* at = codes + 4 * down * stride + 4 * across;
  unsigned rows[kWords / kDown][4];
#pragma unroll
  for (int turn = 0; turn < kWords / kDown; ++turn) {
#pragma unroll
    for (int i = 0; i < 4; ++i, at += stride) {
      const bool exists = kWhole || 4 * (down + turn * kDown) + i < places;
      rows[turn][i] = exists ? codes_at<kWhole>(at, count - 4 * across) : 0u;
    }
    at += 4 * (kDown - 1) * stride;
  }
#pragma unroll
  for (int turn = 0; turn < kWords / kDown; ++turn) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Two columns of rows 0 and 1, and of rows 2 and 3.
      const unsigned selector = half == 0 ? 0x5140u : 0x7362u;
      const unsigned upper = __byte_perm(rows[turn][0], rows[turn][1], selector);
      const unsigned lower = __byte_perm(rows[turn][2], rows[turn][3], selector);
      unsigned* const to = &tile[4 * across + 2 * half][down + turn * kDown];
      to[0] = odd_codes(__byte_perm(upper, lower, 0x5410u));
      to[kWords + 1] = odd_codes(__byte_perm(upper, lower, 0x7632u));
    }
  }
}

/// out[j][s] = 2 codes[s][j] + 1, for codes of at most seven bits. Rows of `out` are `stride` bytes
/// apart, a multiple of 4; what lies there behind its `summed` places is undefined. Grid: tiles of
/// 128 x 128.
__global__ void __launch_bounds__(256)
    transpose_odd_kernel(CodeColumns codes, std::int8_t* out, int summed, std::int64_t stride) {
  follow_last_kernel();
  constexpr int kWords = kTransposedLines / 4, kWarps = 8;
  __shared__ unsigned tile[kTransposedLines][kWords + 1];  // by columns of codes
  const auto count = static_cast<int>(codes.count);
  const auto across = static_cast<unsigned>(count + kTransposedLines - 1) / kTransposedLines;
  const int first_column = static_cast<int>(blockIdx.x % across) * kTransposedLines;
  const int first_place = static_cast<int>(blockIdx.x / across) * kTransposedLines;
  const std::int8_t* const from = codes.codes + first_place * codes.stride + first_column;
  const int places = summed - first_place, columns = count - first_column;
  if (places >= kTransposedLines && columns >= kTransposedLines) {
    transpose_tile<true>(tile, from, codes.stride, places, columns);
  } else {
    transpose_tile<false>(tile, from, codes.stride, places, columns);
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  if (first_place + 4 * lane >= stride) return;
  std::int8_t* to = out + (first_column + warp) * stride + first_place + 4 * lane;
#pragma unroll
  for (int line = 0; line < kTransposedLines; line += kWarps, to += kWarps * stride) {
    if (warp + line >= columns) continue;
    *reinterpret_cast<unsigned*>(to) = tile[warp + line][lane];
  }
}

}  // namespace quest::cuda
