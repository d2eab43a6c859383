// The product of codes with the instructions of warpgroups: the tiles, the copies and the end of
// code_product.cuh, multiplied from where they lie in shared memory.
#pragma once

#include "backend/cuda/code_product.cuh"
#include "backend/cuda/warpgroup.cuh"

namespace quest::cuda {

/// Where the chunk of a row lies in a tile that warpgroups read: lines of 128 bytes, chunks at
/// their index XOR the line's, modulo 8 (the PTX ISA's 128-byte swizzle, rows along the sum). Tiles
/// begin at multiples of 1024 bytes. The rows of right factors go to the lines which give a lane
/// eight neighbouring columns of outputs: of 32 of them, line 8 j + 2 t + e has row 8 t + 2 j + e.
template <bool kIsLeft>
struct SwizzledLayout {
  static constexpr int kDepth = 128;  // places of a row
  static constexpr int kPatternBytes = 8 * kDepth;
  __host__ __device__ static int chunk_offset(int row, int chunk) {
    const int line = kIsLeft ? row : row / 32 * 32 + row / 2 % 4 * 8 + row / 8 % 4 * 2 + row % 2;
    return line * kDepth + (chunk ^ line % 8) * kChunk;
  }
};

/// The descriptor of a factor (PTX ISA, "Matrix Descriptor Format"), from its first line at `tile`
/// on. It counts in 16 bytes: bits 0-13 where it begins; 16-29 a stride that swizzled rows have no
/// use for, 1 by convention; 32-45 from eight lines to the next eight; 49-51 zero, since the
/// pattern begins at a multiple of 1024 bytes; 62-63 one: swizzled by 128 bytes. Further places of
/// the same lines are a descriptor that begins so much later.
__device__ __forceinline__ std::uint64_t matrix_descriptor(const std::byte* tile) {
  constexpr std::uint64_t kStride = SwizzledLayout<true>::kPatternBytes / 16;
  return (shared_address(tile) & 0x3ffffu) >> 4 | std::uint64_t{1} << 16 | kStride << 32 |
         std::uint64_t{1} << 62;
}

/// How a block divides its outputs: warpgroups of 64 rows and all of its columns; stages of the
/// pipeline; blocks that are to fit a multiprocessor's registers. As CodeProductShape, of whose
/// warps and tiles these have one column and one row.
template <int kWarpgroups_, int kColumns_, int kStages_, int kBlocks_>
struct WarpgroupProductShape {
  static constexpr int kStages = kStages_, kBlocks = kBlocks_;
  static constexpr int kRows = kWarpgroups_ * kWarpgroupRows, kColumns = kColumns_;
  static constexpr int kThreads = kWarpgroups_ * kWarpgroupThreads;
  static constexpr int kRowTiles = 1, kColumnTiles = kColumns / 8, kWarpRows = 16;
  static constexpr bool kUsesWarpgroups = true;
  static constexpr int kExpandedTiles = 3;  // two that are multiplied, and the next
  static constexpr int kAlignment = SwizzledLayout<true>::kPatternBytes;
  static constexpr int kMostSharedBytes = 227 << 10;  // of a block on sm_90
  template <bool kIsLeft>
  using Layout = SwizzledLayout<kIsLeft>;
  static_assert(kStages >= 3);
};
/// Tensor cores take 128 clocks for 64 x 256 outputs and 32 places, which are 10 KiB of shared
/// memory; 64 for 64 x 128, 6 KiB. Of the wide one a multiprocessor has one block, of the narrow
/// one two.
using WideWarpgroupProduct = WarpgroupProductShape<2, 256, 4, 1>;    // 128 x 256
using NarrowWarpgroupProduct = WarpgroupProductShape<2, 128, 3, 2>;  // 128 x 128

/// The block's dynamic shared memory from its first multiple of kAlignment bytes on.
template <int kAlignment>
__device__ std::byte* aligned_shared() {
  std::byte* const shared = dynamic_shared();
  return shared + (0u - shared_address(shared)) % kAlignment;
}

/// Begins the products of a stage, as a group; `lefts` are the warpgroup's rows.
template <typename Shape, typename Rights>
__device__ __forceinline__ void begin_stage(std::int32_t (&sums)[Shape::kColumnTiles][4],
                                            const std::byte* lefts, const std::byte* rights) {
  constexpr int kDepth = Shape::template Layout<true>::kDepth;
  const std::uint64_t left = matrix_descriptor(lefts);
  const std::uint64_t right = matrix_descriptor(rights);
  begin_products();
#pragma unroll
  for (int part = 0; part < kDepth / kWarpgroupDepth; ++part) {
    const int further = part * kWarpgroupDepth / 16;
    multiply_async<Rights::kUnsigned>(sums, left + further, right + further);
  }
  commit_products();
}

/// write of the sum over s of left(i, s) right(j, s), for i < rows and j < columns. Grid: tiles.
/// While a step is multiplied, copies of kStages - 2 more are underway, and packed codes of the
/// next one are expanded.
template <typename Shape, typename Left, typename Right, typename Write>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    warpgroup_product_kernel(Left left, Right right, Write write, CodeProductSize size) {
  follow_last_kernel();
  static_assert(!Write::kNeedsLeftSums);  // codes of the left factor do not pass through registers
  if constexpr (!kHasWarpgroups) {
    __trap();  // code for another device
  } else {
    using Pipeline = CodePipeline<Shape, Left, Right>;
    using Lefts = typename Pipeline::Lefts;
    using Rights = typename Pipeline::Rights;
    constexpr int kAhead = Shape::kStages - 2;
    const TileOrigin origin = tile_origin<Shape>(size, blockIdx.x);
    const Pipeline tiles(left, right, origin, size.summed, aligned_shared<Shape::kAlignment>());
    const int steps = tiles.steps();
    const auto later = [](int stage, int by) {
      return stage + by < Shape::kStages ? stage + by : stage + by - Shape::kStages;
    };

    const int own_rows = static_cast<int>(threadIdx.x) / kWarpgroupThreads * kWarpgroupRows *
                         Shape::template Layout<true>::kDepth;

    CodeSums<Shape> sums = {};
#pragma unroll
    for (int step = 0; step < kAhead; ++step) tiles.start(step, step);
    if constexpr (Pipeline::kExpands) {
      wait_for_copies<kAhead - 1>();
      tiles.expand(0, 0);
    }
    int stage = 0;
    for (int step = 0; step < steps; ++step) {
      if constexpr (!Pipeline::kExpands) wait_for_copies<kAhead - 1>();
      publish_shared_writes();
      __syncthreads();
      begin_stage<Shape, Rights>(sums[0], tiles.left(stage) + own_rows, tiles.right(step, stage));
      // All have passed the barrier, so the step before the last is multiplied: its stage is free,
      // and its expanded tile.
      tiles.start(step + kAhead, later(stage, kAhead));
      stage = later(stage, 1);
      if constexpr (Pipeline::kExpands) {
        // The copies of the next step; those of this one were waited for a step ago.
        wait_for_copies<kAhead - 1>();
        if (step + 1 < steps) tiles.expand(step + 1, stage);
      }
      wait_for_products<1>();
    }
    finish_products(sums[0]);
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const TileOrigin own{origin.row + warp * Shape::kWarpRows, origin.column};
#pragma unroll
    for (int four = 0; four < Shape::kColumnTiles / 4; ++four) {
      write_columns<Shape, Lefts, Rights>(write, sums, {}, four, own, size);
    }
  }
}

}  // namespace quest::cuda
