// Products of 8-bit codes on tensor cores: exact 32-bit sums, which become scaled floats in the
// registers that hold them.
#pragma once

#include <utility>

#include "backend/cuda/code_tiles.cuh"
#include "backend/cuda/product_outputs.cuh"

namespace quest::cuda {

/// How a block divides its outputs: warps, and 16-row and 8-column tiles of each; stages of the
/// pipeline; blocks that are to fit a multiprocessor's registers.
template <int kRowWarps_, int kColumnWarps_, int kRowTiles_, int kColumnTiles_, int kStages_,
          int kBlocks_>
struct CodeProductShape {
  static constexpr int kRowWarps = kRowWarps_, kColumnWarps = kColumnWarps_;
  static constexpr int kRowTiles = kRowTiles_, kColumnTiles = kColumnTiles_;
  static constexpr int kStages = kStages_, kBlocks = kBlocks_;
  static constexpr int kWarpRows = 16 * kRowTiles, kWarpColumns = 8 * kColumnTiles;
  static constexpr int kRows = kRowWarps * kWarpRows, kColumns = kColumnWarps * kWarpColumns;
  static constexpr int kThreads = 32 * kRowWarps * kColumnWarps;
  static constexpr bool kUsesWarpgroups = false;
  static constexpr int kExpandedTiles = 2;           // the one that is multiplied, and the next
  static constexpr int kAlignment = 128;             // of tiles, in bytes
  static constexpr int kMostSharedBytes = 99 << 10;  // of a block on sm_86, sm_89 and sm_120
  template <bool kIsLeft>
  using Layout = LoadedLayout<kIsLeft>;
  static_assert(kColumnTiles % 4 == 0 && kStages >= 3);
};
/// A warp of 64 x 64 outputs reads 4 KiB of shared memory for 32 products of 16 x 8 x 32; one of
/// 64 x 32 reads 3 KiB for 16. Hence the large one, wherever its blocks are enough for a device.
using LargeCodeProduct = CodeProductShape<4, 2, 4, 8, 4, 1>;   // 256 x 128
using MiddleCodeProduct = CodeProductShape<2, 4, 4, 4, 4, 2>;  // 128 x 128
using SmallCodeProduct = CodeProductShape<2, 2, 2, 4, 6, 3>;   // 64 x 64

/// A product of codes: what is known before the kernel runs.
struct CodeProductSize {
  std::int64_t rows, columns, summed;
  bool whole_vectors;  ///< rows of the output begin at multiples of 16 bytes
};

/// Tiles of Shape::kRows x Shape::kColumns outputs.
template <typename Shape>
__host__ __device__ unsigned count_tiles(const CodeProductSize& size) {
  return static_cast<unsigned>((size.rows + Shape::kRows - 1) / Shape::kRows) *
         static_cast<unsigned>((size.columns + Shape::kColumns - 1) / Shape::kColumns);
}

/// First row and column of a tile. Tiles that are multiplied at once share rows and columns, so
/// that the second-level cache serves them: eight tiles of rows, then the next column.
struct TileOrigin {
  std::int64_t row, column;
};
template <typename Shape>
__device__ TileOrigin tile_origin(const CodeProductSize& size, unsigned tile) {
  constexpr unsigned kGroup = 8;
  const auto row_tiles = static_cast<unsigned>((size.rows + Shape::kRows - 1) / Shape::kRows);
  const auto column_tiles =
      static_cast<unsigned>((size.columns + Shape::kColumns - 1) / Shape::kColumns);
  const unsigned group = tile / (kGroup * column_tiles);
  const unsigned in_group = tile % (kGroup * column_tiles);
  const unsigned left = row_tiles - group * kGroup, height = left < kGroup ? left : kGroup;
  return {std::int64_t{group * kGroup + in_group % height} * Shape::kRows,
          std::int64_t{in_group / height} * Shape::kColumns};
}

/// The tiles of both factors in a block's shared memory: stages of copies, and where packed codes
/// are expanded those too.
template <typename Shape, typename Left, typename Right>
class CodePipeline {
 public:
  using Lefts = TilesOf<Left, Shape::kRows, Shape::kThreads, typename Shape::template Layout<true>>;
  using Rights =
      TilesOf<Right, Shape::kColumns, Shape::kThreads, typename Shape::template Layout<false>>;
  static constexpr bool kExpands = Rights::kExpandedBytes > 0;
  static constexpr int kRightStages = Shape::kStages * Lefts::kStageBytes;
  static constexpr int kExpanded = kRightStages + Shape::kStages * Rights::kStageBytes;
  /// What a launch asks for; dynamic_shared() is aligned to 128 bytes, so more needs room.
  static constexpr int kSharedBytes =
      kExpanded + Shape::kExpandedTiles * Rights::kExpandedBytes + Shape::kAlignment - 128;
  static_assert(kSharedBytes <= Shape::kMostSharedBytes);

  /// `shared` at a multiple of Shape::kAlignment.
  __device__ CodePipeline(const Left& left, const Right& right, const TileOrigin& origin,
                          std::int64_t summed, std::byte* shared)
      : lefts_(left, origin.row, summed),
        rights_(right, origin.column, summed),
        shared_(shared),
        steps_(static_cast<int>((summed + kDepth - 1) / kDepth)) {}

  /// Places of the sum are taken in so many steps.
  __device__ int steps() const { return steps_; }
  /// Begins to copy the tiles of a step, if there is one, as a group of copies.
  __device__ void start(int step, int stage) const {
    if (step < steps_) {
      lefts_.start(left_stage(stage), step);
      rights_.start(right_stage(stage), step);
    }
    commit_copies();
  }
  /// Expands what this thread has copied to `stage` for a step.
  __device__ void expand(int step, int stage) const {
    rights_.expand(right_stage(stage), expanded(step));
  }
  __device__ const std::byte* left(int stage) const { return left_stage(stage); }
  __device__ const std::byte* right(int step, int stage) const {
    return Rights::tile(right_stage(stage), expanded(step));
  }

 private:
  static constexpr int kDepth = Shape::template Layout<true>::kDepth;

  __device__ std::byte* left_stage(int stage) const { return shared_ + stage * Lefts::kStageBytes; }
  __device__ std::byte* right_stage(int stage) const {
    return shared_ + kRightStages + stage * Rights::kStageBytes;
  }
  __device__ std::byte* expanded(int step) const {
    return shared_ + kExpanded + step % Shape::kExpandedTiles * Rights::kExpandedBytes;
  }

  Lefts lefts_;
  Rights rights_;
  std::byte* shared_;
  int steps_;
};

/// Sums of a warp: [tile of rows][tile of columns][as multiply_add holds them].
template <typename Shape>
using CodeSums = std::int32_t[Shape::kRowTiles][Shape::kColumnTiles][4];
/// Sums of the left factor's own rows, as far as this lane has their codes.
template <typename Shape>
using LeftSums = std::int32_t[Shape::kRowTiles][2];

/// Adds the products of a stage.
template <typename Shape, typename Lefts, typename Rights, bool kNeedsLeftSums>
__device__ __forceinline__ void multiply_stage(CodeSums<Shape>& sums, LeftSums<Shape>& left_sums,
                                               const std::byte* lefts, const std::byte* rights) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int first_row = warp / Shape::kColumnWarps * Shape::kWarpRows;
  const int first_pair = warp % Shape::kColumnWarps * (Shape::kColumnTiles / 2);
  // Left sums and both halves at once are more than the 128 registers of a thread of two blocks.
#pragma unroll(kNeedsLeftSums ? 1 : kCodeDepth / 32)
  for (int part = 0; part < kCodeDepth / 32; ++part) {
    unsigned a[Shape::kRowTiles][4];
#pragma unroll
    for (int i = 0; i < Shape::kRowTiles; ++i) {
      Lefts::load_left(a[i], lefts, first_row + 16 * i, part);
      if constexpr (kNeedsLeftSums) {
#pragma unroll
        for (int word = 0; word < 4; ++word) {
          left_sums[i][word % 2] =
              __dp4a(static_cast<int>(a[i][word]), 0x01010101, left_sums[i][word % 2]);
        }
      }
    }
#pragma unroll
    for (int pair = 0; pair < Shape::kColumnTiles / 2; ++pair) {
      unsigned b[4];
      Rights::load_right(b, rights, first_pair + pair, part);
#pragma unroll
      for (int i = 0; i < Shape::kRowTiles; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          if constexpr (Rights::kUnsigned) {
            multiply_add_unsigned(sums[i][2 * pair + j], a[i], b[2 * j], b[2 * j + 1]);
          } else {
            multiply_add(sums[i][2 * pair + j], a[i], b[2 * j], b[2 * j + 1]);
          }
        }
      }
    }
  }
}

/// What a write function says of a row or a column.
template <typename Write>
using RowLine = decltype(std::declval<Write>().row(0, 0));
template <typename Write>
using ColumnLine = decltype(std::declval<Write>().column(0));

/// Writes a lane's eight outputs in each of its rows of 32 columns of a warp: `columns` of them,
/// and row_line(row, tile of rows, half) of each row.
template <typename Shape, typename Lefts, typename Rights, typename Write, typename RowLines>
__device__ __forceinline__ void write_outputs(const Write& write, const CodeSums<Shape>& sums,
                                              const ColumnLine<Write> (&columns)[8],
                                              const RowLines& row_line, int four,
                                              const TileOrigin& warp, const CodeProductSize& size) {
  constexpr int kRun = Rights::kRun;
#pragma unroll
  for (int i = 0; i < Shape::kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t row = warp.row + 16 * i + Lefts::left_row(half);
      if (row >= size.rows) continue;
      const RowLine<Write> line = row_line(row, i, half);
#pragma unroll
      for (int run = 0; run < 8 / kRun; ++run) {
        float values[kRun];
#pragma unroll
        for (int c = 0; c < kRun; ++c) {
          const int all = run * kRun + c;
          values[c] = write.value(
              line, columns[all],
              sums[i][4 * four + Rights::tile_of(all)][2 * half + Rights::place_of(all)]);
        }
        const std::int64_t column = warp.column + 32 * four + Rights::first_column(run);
        if (size.whole_vectors && column + kRun <= size.columns) {
          write_neighbours(write.out, row, column, values, write.add);
          continue;
        }
#pragma unroll
        for (int c = 0; c < kRun; ++c) {
          if (column + c < size.columns) write.out.write(row, column + c, values[c], write.add);
        }
      }
    }
  }
}

/// The same, asking `write` for what it says of lines.
template <typename Shape, typename Lefts, typename Rights, typename Write>
__device__ __forceinline__ void write_columns(const Write& write, const CodeSums<Shape>& sums,
                                              const LeftSums<Shape>& left_sums, int four,
                                              const TileOrigin& warp, const CodeProductSize& size) {
  constexpr int kRun = Rights::kRun;
  ColumnLine<Write> columns[8];
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    const std::int64_t column = warp.column + 32 * four + Rights::first_column(c / kRun) + c % kRun;
    columns[c] = write.column(column < size.columns ? column : size.columns - 1);
  }
  write_outputs<Shape, Lefts, Rights>(
      write, sums, columns,
      [&](std::int64_t row, int i, int half) { return write.row(row, left_sums[i][half]); }, four,
      warp, size);
}

/// write of the sum over s of left(i, s) right(j, s), for i < rows and j < columns. Grid: tiles.
template <typename Shape, typename Left, typename Right, typename Write>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    code_product_kernel(Left left, Right right, Write write, CodeProductSize size) {
  follow_last_kernel();
  using Pipeline = CodePipeline<Shape, Left, Right>;
  using Lefts = typename Pipeline::Lefts;
  using Rights = typename Pipeline::Rights;
  constexpr bool kExpands = Pipeline::kExpands;
  constexpr int kStages = Shape::kStages;
  const TileOrigin origin = tile_origin<Shape>(size, blockIdx.x);
  const Pipeline tiles(left, right, origin, size.summed, dynamic_shared());
  const int steps = tiles.steps();

  CodeSums<Shape> sums = {};
  LeftSums<Shape> left_sums = {};
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) tiles.start(step, step);
  if constexpr (kExpands) {
    wait_for_copies<kStages - 2>();
    tiles.expand(0, 0);
  }
  int stage = 0;
  for (int step = 0; step < steps; ++step) {
    // The copies of this step, and where they have to be expanded those of the next.
    wait_for_copies<kStages - (kExpands ? 3 : 2)>();
    __syncthreads();  // All have passed the last step: its stage is free.
    tiles.start(step + kStages - 1, stage == 0 ? kStages - 1 : stage - 1);
    multiply_stage<Shape, Lefts, Rights, Write::kNeedsLeftSums>(sums, left_sums, tiles.left(stage),
                                                                tiles.right(step, stage));
    stage = stage == kStages - 1 ? 0 : stage + 1;
    if constexpr (kExpands) {
      if (step + 1 < steps) tiles.expand(step + 1, stage);
    }
  }
  if constexpr (Write::kNeedsLeftSums) {
    for (int i = 0; i < 2 * Shape::kRowTiles; ++i) {
      std::int32_t& sum = left_sums[i / 2][i % 2];
      for (int lanes = 1; lanes < 4; lanes *= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
    }
  }
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const TileOrigin own{origin.row + warp / Shape::kColumnWarps * Shape::kWarpRows,
                       origin.column + warp % Shape::kColumnWarps * Shape::kWarpColumns};
#pragma unroll
  for (int four = 0; four < Shape::kColumnTiles / 4; ++four) {
    write_columns<Shape, Lefts, Rights>(write, sums, left_sums, four, own, size);
  }
}

}  // namespace quest::cuda
