// The product of codes by rows with warpgroups whose blocks stay: one block a multiprocessor takes
// tile after tile. A thread of it does nothing but begin copies of tiles into stages of shared
// memory, and two warpgroups multiply them, the second some stages behind the first, so that each
// writes its outputs while the other multiplies. Blocks come in pairs (clusters) that have the
// right factor in common: each brings half of it for both.
#pragma once

#include "backend/cuda/code_product.cuh"
#include "backend/cuda/tensor_copy.cuh"
#include "backend/cuda/warpgroup_product.cuh"

namespace quest::cuda {

/// A pair of blocks has a tile of 256 x 256 outputs, each block 128 rows of it, each of its two
/// warpgroups that multiply 64.
struct PersistentProduct {
  static constexpr unsigned kPair = 2;
  static constexpr int kMultiplying = 2;  // warpgroups; one more copies
  static constexpr int kBlockRows = kMultiplying * kWarpgroupRows, kColumns = 256;
  static constexpr int kRows = kPair * kBlockRows;  // of a tile
  static constexpr int kThreads = (kMultiplying + 1) * kWarpgroupThreads;
  static constexpr int kStages = 4;
  static constexpr int kHeadStart = 2;  // stages by which the first warpgroup is ahead
  // 168 registers a thread is what 384 threads may have at first.
  static constexpr int kCopyingRegisters = 40, kMultiplyingRegisters = 232;

  static constexpr int kRowTiles = 1, kColumnTiles = kColumns / 8, kWarpRows = 16;
  template <bool kIsLeft>
  using Layout = SwizzledLayout<kIsLeft>;
  static constexpr int kDepth = Layout<true>::kDepth;
  using Lefts = TilesOf<CodeRows, kBlockRows, kBlockRows * 2, Layout<true>>;
  using Rights = TilesOf<CodeRows, kColumns, kColumns, Layout<false>>;

  static constexpr int kLeftBytes = kBlockRows * kDepth, kRightBytes = kColumns * kDepth;
  static constexpr int kStageBytes = kLeftBytes + kRightBytes;
  static constexpr int kLineBytes = 8;  // of what a write function says of a column, if anything
  static constexpr int kAlignment = Layout<true>::kPatternBytes;
  static constexpr int kSharedBytes =
      kStages * (kStageBytes + 2 * 8) + kMultiplying * kColumns * kLineBytes + kAlignment - 128;
  static_assert(kSharedBytes <= 227 << 10 && kHeadStart < kStages);
};

/// A stage, and whether the phases of its barriers that come next are even or odd ones.
struct StageTurn {
  int stage = 0;
  unsigned parity = 0;
  __device__ void advance() {
    if (++stage < PersistentProduct::kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

/// What lies in a block's shared memory: stages, each with a barrier that says that it has come and
/// one that says that both blocks of the pair have multiplied it; lines of columns.
class PersistentStages {
  using Shape = PersistentProduct;

 public:
  /// `shared` at a multiple of Shape::kAlignment.
  __device__ explicit PersistentStages(std::byte* shared) : shared_(shared) {}

  /// By one thread, before sync_cluster.
  __device__ void begin() const {
    constexpr unsigned kWarps = Shape::kMultiplying * kWarpgroupThreads / 32;
    for (int stage = 0; stage < Shape::kStages; ++stage) {
      begin_phases(full(stage), 1);
      begin_phases(empty(stage), Shape::kPair * kWarps);
    }
    announce_phases();
  }
  __device__ std::byte* left(int stage) const { return shared_ + stage * Shape::kStageBytes; }
  __device__ std::byte* right(int stage) const { return left(stage) + Shape::kLeftBytes; }
  __device__ std::uint64_t* full(int stage) const { return barriers() + stage; }
  __device__ std::uint64_t* empty(int stage) const { return full(stage) + Shape::kStages; }
  template <typename Line>
  __device__ Line* columns(unsigned warpgroup) const {
    static_assert(std::is_empty_v<Line> || sizeof(Line) == Shape::kLineBytes);
    return reinterpret_cast<Line*>(reinterpret_cast<std::byte*>(empty(Shape::kStages)) +
                                   warpgroup * Shape::kColumns * Shape::kLineBytes);
  }

  /// A warp has multiplied a stage: tells both blocks.
  __device__ void release(int stage) const {
    const unsigned lane = threadIdx.x % 32;
    if (lane < Shape::kPair) arrive_at(empty(stage), lane);
  }

 private:
  __device__ std::uint64_t* barriers() const {
    return reinterpret_cast<std::uint64_t*>(left(Shape::kStages));
  }

  std::byte* shared_;
};

/// The tiles of a pair, the same for both blocks, and their steps.
struct PersistentWork {
  unsigned pair, pairs, tiles;
  int steps;

  __device__ explicit PersistentWork(const CodeProductSize& size)
      : pair(blockIdx.x / PersistentProduct::kPair),
        pairs(gridDim.x / PersistentProduct::kPair),
        tiles(count_tiles<PersistentProduct>(size)),
        steps(static_cast<int>((size.summed + PersistentProduct::kDepth - 1) /
                               PersistentProduct::kDepth)) {}
};

/// Brings all tiles of a block, by one thread: rows of the left factor, and this block's half of
/// the right one's for both blocks.
__device__ inline void bring_tiles(const PersistentStages& stages, const CUtensorMap& left,
                                   const CUtensorMap& right, const CodeProductSize& size) {
  using Shape = PersistentProduct;
  constexpr int kHalf = Shape::kColumns / Shape::kPair;
  const int block = static_cast<int>(block_in_cluster());
  const PersistentWork work(size);
  StageTurn turn;
  for (unsigned tile = work.pair; tile < work.tiles; tile += work.pairs) {
    const TileOrigin origin = tile_origin<Shape>(size, tile);
    const int row = static_cast<int>(origin.row) + block * Shape::kBlockRows;
    const int group = (static_cast<int>(origin.column) + block * kHalf) / 32;
    for (int step = 0; step < work.steps; ++step) {
      wait_for_phase(stages.empty(turn.stage), turn.parity ^ 1);
      // The other block's half may come before: a phase does not end without its arrival.
      std::uint64_t* const full = stages.full(turn.stage);
      arrive_and_expect(full, Shape::kStageBytes);
      const int place = step * Shape::kDepth;
      copy_tile(stages.left(turn.stage), left, {place, row}, full);
      copy_tile_to_blocks(stages.right(turn.stage) + block * kHalf * Shape::kDepth, right,
                          {place, 0, 0, 0, group}, full, (1u << Shape::kPair) - 1);
      turn.advance();
    }
  }
}

/// Multiplies the tiles of a block, by one of its warpgroups: 64 rows of each.
template <typename Write>
class TileMultiplier {
  using Shape = PersistentProduct;
  using Lefts = Shape::Lefts;
  using Rights = Shape::Rights;
  using Line = ColumnLine<Write>;
  static constexpr bool kHasLines = !std::is_empty_v<Line>;
  static constexpr int kLines = Shape::kColumns / kWarpgroupThreads;  // of a thread

 public:
  __device__ TileMultiplier(const PersistentStages& stages, const Write& write,
                            const CodeProductSize& size, unsigned warpgroup)
      : stages_(stages), write_(write), size_(size), work_(size), warpgroup_(warpgroup) {}

  __device__ void run() {
    if (warpgroup_ == 1 && work_.pair < work_.tiles) give_head_start();
    const std::int64_t first_row = block_in_cluster() * Shape::kBlockRows +
                                   threadIdx.x / 32 * Shape::kWarpRows;  // of the warp
    for (unsigned tile = work_.pair; tile < work_.tiles; tile += work_.pairs) {
      TileOrigin origin = tile_origin<Shape>(size_, tile);
      origin.row += first_row;
      load_lines(origin);
      CodeSums<Shape> sums = {};
      multiply(sums[0]);
      write(sums, origin);
    }
  }

 private:
  // Lets the first warpgroup begin when the first stage has come, and this one a little later.
  // From then on they do not write outputs at the same time.
  __device__ void give_head_start() const {
    const unsigned tiles = (work_.tiles - work_.pair + work_.pairs - 1) / work_.pairs;
    const unsigned last = tiles * static_cast<unsigned>(work_.steps) - 1;
    wait_for_phase(stages_.full(static_cast<int>(min(last, unsigned{Shape::kHeadStart}))), 0);
  }

  __device__ std::int64_t row_of(const TileOrigin& origin, int half) const {
    return origin.row + Lefts::left_row(half);
  }

  // What `write_` says of the rows and columns of a tile, long before it is needed.
  __device__ void load_lines(const TileOrigin& origin) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      rows_[half] = write_.row(min(row_of(origin, half), size_.rows - 1), 0);
    }
#pragma unroll
    for (int i = 0; i < kLines; ++i) {
      const std::int64_t column =
          origin.column + threadIdx.x % kWarpgroupThreads + i * kWarpgroupThreads;
      columns_[i] = write_.column(min(column, size_.columns - 1));
    }
  }

  __device__ __forceinline__ void multiply(std::int32_t (&sums)[Shape::kColumnTiles][4]) {
    const unsigned own_rows = warpgroup_ * kWarpgroupRows * Shape::kDepth;
    int before = -1;
    for (int step = 0; step < work_.steps; ++step) {
      wait_for_phase(stages_.full(turn_.stage), turn_.parity);
      begin_stage<Shape, Rights>(sums, stages_.left(turn_.stage) + own_rows,
                                 stages_.right(turn_.stage));
      wait_for_products<1>();
      if (step > 0) stages_.release(before);
      before = turn_.stage;
      turn_.advance();
    }
    finish_products(sums);
    stages_.release(before);
  }

  __device__ __forceinline__ void write(const CodeSums<Shape>& sums, const TileOrigin& origin) {
    Line* const lines = stages_.columns<Line>(warpgroup_);
    if constexpr (kHasLines) {
#pragma unroll
      for (int i = 0; i < kLines; ++i) {
        lines[threadIdx.x % kWarpgroupThreads + i * kWarpgroupThreads] = columns_[i];
      }
      sync_warpgroup(warpgroup_);
    }
#pragma unroll
    for (int four = 0; four < Shape::kColumnTiles / 4; ++four) {
      Line columns[8];
      if constexpr (kHasLines) {
        const auto* const from =
            reinterpret_cast<const uint4*>(lines + 32 * four + Rights::first_column(0));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint4 two = from[i];
          memcpy(columns + 2 * i, &two, sizeof two);
        }
      }
      write_outputs<Shape, Lefts, Rights>(
          write_, sums, columns, [&](std::int64_t, int, int half) { return rows_[half]; }, four,
          origin, size_);
    }
    if constexpr (kHasLines)
      sync_warpgroup(warpgroup_);  // all have read before the next are written
  }

  const PersistentStages& stages_;
  const Write& write_;
  const CodeProductSize& size_;
  const PersistentWork work_;
  const unsigned warpgroup_;
  StageTurn turn_;
  RowLine<Write> rows_[2];
  Line columns_[kLines];
};

/// write of the sum over s of left(i, s) right(j, s), for i < rows and j < columns, of CodeRows
/// whose tensors `left` (left_map) and `right` (right_map) describe. Grid: pairs of blocks, each a
/// cluster.
template <typename Write>
__global__ void __launch_bounds__(PersistentProduct::kThreads, 1)
    persistent_product_kernel(const __grid_constant__ CUtensorMap left,
                              const __grid_constant__ CUtensorMap right, Write write,
                              CodeProductSize size) {
  admit_next_kernel();
  static_assert(!Write::kNeedsLeftSums);
  if constexpr (!kHasWarpgroups) {
    __trap();  // code for another device
  } else {
    using Shape = PersistentProduct;
    const PersistentStages stages(aligned_shared<Shape::kAlignment>());
    if (threadIdx.x == 0) stages.begin();
    sync_cluster();
    await_last_kernel();
    const unsigned warpgroup = __shfl_sync(kAllLanes, threadIdx.x / kWarpgroupThreads, 0);
    if (warpgroup < Shape::kMultiplying) {
      take_registers<Shape::kMultiplyingRegisters>();
      TileMultiplier<Write>(stages, write, size, warpgroup).run();
    } else {
      give_registers<Shape::kCopyingRegisters>();
      if (threadIdx.x == Shape::kMultiplying * kWarpgroupThreads) {
        bring_tiles(stages, left, right, size);
      }
    }
    sync_cluster();  // the other block may still send tiles, and arrive
  }
}

}  // namespace quest::cuda
