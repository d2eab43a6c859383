// The product of one row with packed weights, from what the row is made of: what decoding a single
// sequence waits for. Each block makes the row's codes for itself, which costs less than a kernel
// that makes them for all; the weights that it meets first are underway meanwhile.
#pragma once

#include "backend/cuda/packed_decode_kernels.cuh"
#include "backend/cuda/quantize_row.cuh"

namespace quest::cuda {

inline constexpr int kRowAhead = 4;   // steps of a warp whose weights are underway
inline constexpr int kMostTiles = 8;  // of kDecodeColumns columns, of a block
inline constexpr std::int64_t kMostRowColumns = 32 << 10;  // of a row whose codes a block keeps

/// What a warp multiplies in one step: chunks 4 group .. 4 group + 3 of the columns of a tile.
struct RowStep {
  int tile, group;
  /// The warps of a block divide the groups of a tile; all of them take equally many steps.
  __device__ void advance(int groups, int warp, int warps) {
    group += warps;
    if (group - warp < groups) return;
    group = warp;
    ++tile;
  }
  __device__ bool ends_tile(int groups, int warp, int warps) const {
    return group - warp + warps >= groups;
  }
};

/// write(0, n, {sum over the codes of the source's row and the unsigned codes of w}) for `tiles`
/// tiles of columns n a block. `f` is without x. Shared memory: a byte a column of the row.
template <int kBits, typename Source>
__global__ void __launch_bounds__(kRowThreads<Source, kFewHeld<Source>>)
    packed_row_kernel(Source source, RowRule rule, DecodeFactors f, int tiles,
                      WriteQuantized write) {
  admit_next_kernel();
  using Units = DecodeUnits<kBits>;
  constexpr int kMostWarps = kRowThreads<Source, kFewHeld<Source>> / static_cast<int>(kWarp);
  __shared__ std::int32_t parts[kMostTiles][kMostWarps][kDecodeColumns];
  __shared__ float x_step;
  __shared__ std::int32_t x_sum;
  auto* const x_codes = reinterpret_cast<std::int8_t*>(dynamic_shared());
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
  const int groups = (f.chunks + 3) / 4;
  const std::int64_t first = std::int64_t{blockIdx.x} * tiles * kDecodeColumns;
  const int steps = (groups + warps - 1) / warps * tiles;

  uint4 weights[kRowAhead][kDecodeTiles];
  RowStep next{0, warp};
  const auto load_next = [&](uint4(&to)[kDecodeTiles]) {
    const int chunk = 4 * next.group + t;
#pragma unroll
    for (int i = 0; i < kDecodeTiles; ++i) {
      const std::int64_t n = first + next.tile * kDecodeColumns + 8 * i + g;
      to[i] = next.tile < tiles && chunk < f.chunks && n < f.columns
                  ? load_constant(f.w + n * f.w_stride + std::int64_t{chunk} * 16)
                  : make_uint4(0, 0, 0, 0);
    }
    next.advance(groups, warp, warps);
  };
#pragma unroll
  for (int ahead = 0; ahead < kRowAhead; ++ahead) load_next(weights[ahead]);
  await_last_kernel();
  quantize_row<Source, kFewHeld<Source>>(source, 0, {x_codes, &x_step, &x_sum, nullptr}, rule);
  __syncthreads();

  DecodeSums<kBits> sums = {};
  RowStep step{0, warp};
  for (int begin = 0; begin < steps; begin += kRowAhead) {
#pragma unroll
    for (int ahead = 0; ahead < kRowAhead; ++ahead) {
      if (begin + ahead >= steps) break;
      if (step.group < groups) {
        multiply_chunk<kBits, 1>(sums, f, x_codes, 1, weights[ahead], 4 * step.group + t);
      }
      if (step.ends_tile(groups, warp, warps)) {
#pragma unroll
        for (int i = 0; i < 2 * kDecodeTiles; ++i) {
          std::int32_t sum = 0;
#pragma unroll
          for (int s = 0; s < Units::kScales; ++s) {
            sum += sums[s][i / 2][i % 2] >> kBits * s;
            sums[s][i / 2][i % 2] = 0;
          }
          if (g == 0) parts[step.tile][warp][8 * (i / 2) + 2 * t + i % 2] = sum;
        }
      }
      step.advance(groups, warp, warps);
      load_next(weights[ahead]);
    }
  }
  __syncthreads();
  write.x_steps = &x_step;
  write.x_sums = &x_sum;
  for (int output = static_cast<int>(threadIdx.x); output < tiles * kDecodeColumns;
       output += static_cast<int>(blockDim.x)) {
    if (first + output >= f.columns) continue;
    std::int32_t sum = 0;
    for (int i = 0; i < warps; ++i)
      sum += parts[output / kDecodeColumns][i][output % kDecodeColumns];
    write(0, first + output, sum);
  }
}

}  // namespace quest::cuda
