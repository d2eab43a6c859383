// The product of one row with packed weights, from what the row is made of: what decoding a single
// sequence waits for. Each block makes the row's codes for itself, which costs less than a kernel
// that makes them for all; the weights that it meets first are underway meanwhile.
#pragma once

#include "backend/cuda/packed_decode_kernels.cuh"
#include "backend/cuda/quantize_row.cuh"

namespace quest::cuda {

inline constexpr int kRowAhead = 4;   // steps of a warp whose weights are underway
inline constexpr int kMostTiles = 8;  // of kDecodeColumns columns, of a block
// Of a thread: beside two blocks of 256 threads a multiprocessor has room for a third, of the next
// kernel, which brings its weights.
inline constexpr int kRowRegisters = 80;
inline constexpr std::int64_t kMostRowColumns = 32 << 10;  // of a row whose codes a block keeps

/// Blocks of so many threads that a multiprocessor of 65,536 registers runs at once, two at most.
inline unsigned row_blocks_at_once(unsigned threads) {
  return (64u << 10) / (threads * kRowRegisters) < 2 ? 1 : 2;
}

/// Where a warp of a block is in its share of a product: in one step it multiplies chunks 4 group
/// .. 4 group + 3 of the columns of a tile. As many warps as have a group each share a tile, and
/// such teams take the tiles in turns.
struct RowStep {
  int members, teams;  ///< warps of a team, teams of the block
  int member, tile, group;

  __device__ explicit RowStep(int groups) {
    const int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
    members = groups < warps ? groups : warps;
    teams = warps / members;
    member = group = warp % members;
    tile = warp / members < teams ? warp / members : kMostTiles;
  }
  /// Whether the step was the last of its tile.
  __device__ bool advance(int groups) {
    group += members;
    if (group - member < groups) return false;
    group = member;
    tile += teams;
    return true;
  }
};

/// The weights of a warp's steps, in their order. Lane 4 g + t has chunk 4 group + t of columns g
/// and g + 8 of a tile.
class RowWeights {
 public:
  /// Of `tiles` tiles from column `first` on.
  __device__ RowWeights(const DecodeFactors& f, std::int64_t first, int tiles)
      : next_((f.chunks + 3) / 4), chunks_(f.chunks), tiles_(tiles) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::int64_t own = first + next_.tile * kDecodeColumns + lane / 4;
    const int steps = (f.chunks + 4 * next_.members - 1) / (4 * next_.members);  // of a tile
    left_ = static_cast<int>(f.columns - own);
    from_ = f.w + own * f.w_stride + (4 * next_.group + lane % 4) * 16;
    to_next_tile_ = next_.teams * kDecodeColumns * f.w_stride - (steps - 1) * 64 * next_.members;
    to_half_ = 8 * f.w_stride;
  }
  __device__ __forceinline__ void load_next(uint4 (&to)[kDecodeTiles]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const bool inside = next_.tile < tiles_ && 4 * next_.group + lane % 4 < chunks_;
#pragma unroll
    for (int i = 0; i < kDecodeTiles; ++i) {
      to[i] =
          inside && 8 * i < left_ ? load_constant(from_ + i * to_half_) : make_uint4(0, 0, 0, 0);
    }
    if (next_.advance((chunks_ + 3) / 4)) {
      from_ += to_next_tile_;
      left_ -= next_.teams * kDecodeColumns;
    } else {
      from_ += 64 * next_.members;
    }
  }

 private:
  RowStep next_;
  const std::uint8_t* from_;
  std::int64_t to_next_tile_, to_half_;
  int chunks_, tiles_;
  int left_;  // columns from the lane's first one on
};

/// Weights that the next product reads, while this one's come from the second-level cache.
struct NextWeights {
  const std::uint8_t* codes;
  unsigned bytes_a_block;  ///< a multiple of 16
  std::int64_t bytes;      ///< likewise

  /// Asks for the block's share, by a thread of each warp.
  __device__ void fetch() const {
    constexpr unsigned kPiece = 4096;
    if (threadIdx.x % kWarp != 0) return;
    const std::int64_t begin = std::int64_t{blockIdx.x} * bytes_a_block;
    const std::int64_t left = bytes - begin;
    const unsigned own =
        left < bytes_a_block ? static_cast<unsigned>(left > 0 ? left : 0) : bytes_a_block;
    for (unsigned at = threadIdx.x / kWarp * kPiece; at < own; at += blockDim.x / kWarp * kPiece) {
      fetch_constants(codes + begin + at, own - at < kPiece ? own - at : kPiece);
    }
  }
};

/// The codes of a row of x, put in the order in which multiply_chunk reads them.
template <int kBits>
__device__ void arrange_row(std::int8_t* codes, int columns) {
  using Units = DecodeUnits<kBits>;
  if constexpr (kBits == 8) return;
  constexpr int kUnitCodes = 4 * Units::kXWords;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < columns / kUnitCodes;
       i += static_cast<int>(blockDim.x)) {
    auto* const there = reinterpret_cast<unsigned*>(codes) + i * Units::kXWords;
    unsigned words[Units::kXWords];
#pragma unroll
    for (int k = 0; k < Units::kXWords; ++k) words[k] = there[k];
    Units::arrange(words);
#pragma unroll
    for (int k = 0; k < Units::kXWords; ++k) there[k] = words[k];
  }
}

/// write(0, n, {sum over the codes of the source's row and the unsigned codes of w}) for `tiles`
/// tiles of columns n a block. `f` is without x. Shared memory: a byte a column
/// of the row, to the end of a group; what is behind the row meets weights of 0.
template <int kBits, typename Source>
__global__ void __maxnreg__(kRowRegisters)
    packed_row_kernel(Source source, RowRule rule, DecodeFactors f, int tiles, NextWeights after,
                      WriteQuantized write) {
  admit_next_kernel();
  constexpr int kMostWarps = kRowThreads<Source, kFewHeld<Source>> / static_cast<int>(kWarp);
  __shared__ std::int32_t parts[kMostTiles][kMostWarps][kDecodeColumns];
  // With these and what quantize_row has a block stays below 48 KiB.
  static_assert(kMostRowColumns + sizeof parts + (8 << 10) <= 48 << 10);
  __shared__ float x_step;
  __shared__ std::int32_t x_sum;
  auto* const x_codes = reinterpret_cast<std::int8_t*>(dynamic_shared());
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const int groups = (f.chunks + 3) / 4;
  const std::int64_t first = std::int64_t{blockIdx.x} * tiles * kDecodeColumns;

  RowStep step(groups);
  RowWeights next(f, first, tiles);
  uint4 weights[kRowAhead][kDecodeTiles];
#pragma unroll
  for (int ahead = 0; ahead < kRowAhead; ++ahead) next.load_next(weights[ahead]);
  after.fetch();
  await_last_kernel();
  quantize_row<Source, kFewHeld<Source>>(source, 0, {x_codes, &x_step, &x_sum, nullptr}, rule);
  arrange_row<kBits>(x_codes, rule.columns);
  __syncthreads();

  // All eight columns of a product are the one row.
  DecodeSums<kBits, 1> sums = {};
  while (step.tile < tiles) {
#pragma unroll
    for (int ahead = 0; ahead < kRowAhead; ++ahead) {
      if (step.tile >= tiles) break;
      const std::int8_t* const codes = x_codes + (4 * step.group + t) * (128 / kBits);
      if (step.group < groups) {
        multiply_chunk<kBits, 1, true>(sums, weights[ahead], [&](int, int byte) {
          return *reinterpret_cast<const uint4*>(codes + byte);
        });
      }
      next.load_next(weights[ahead]);
      const int tile = step.tile;
      if (!step.advance(groups)) continue;
#pragma unroll
      for (int half = 0; half < kDecodeTiles; ++half) {
        const std::int32_t sum = joined_sum<kBits, 1>(sums, 0, 2 * half);
        if (t == 0) parts[tile][step.member][8 * half + g] = sum;
      }
      memset(sums, 0, sizeof sums);
    }
  }
  __syncthreads();
  write.x_steps = &x_step;
  write.x_sums = &x_sum;
  for (int output = static_cast<int>(threadIdx.x); output < tiles * kDecodeColumns;
       output += static_cast<int>(blockDim.x)) {
    if (first + output >= f.columns) continue;
    std::int32_t sum = 0;
    for (int i = 0; i < step.members; ++i) {
      sum += parts[output / kDecodeColumns][i][output % kDecodeColumns];
    }
    write(0, first + output, sum);
  }
}

}  // namespace quest::cuda
