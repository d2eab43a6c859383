// What the kernels of attention on tensor cores share: tiles of bf16 rows in shared memory and
// their products. Lanes g and t are those of tensor_core.cuh.
#pragma once

#include "backend/cuda/attention_order.cuh"
#include "backend/cuda/device_rows.cuh"
#include "backend/cuda/float_instructions.cuh"
#include "backend/cuda/tensor_core.cuh"

namespace quest::cuda {

/// Of a block; each warp has rows of its own.
inline constexpr int kTileWarps = 4;
inline constexpr int kTileThreads = kTileWarps * static_cast<int>(kWarp);

/// Rows of bf16 that begin at multiples of 16 bytes.
struct Bf16Rows {
  const std::uint16_t* data;
  std::int64_t stride;
  __device__ const std::uint16_t* at(std::int64_t row, std::int64_t column) const {
    return data + row * stride + column;
  }
};

/// Rows of kWidth bf16 values in shared memory. The 16-byte pieces of a row change places so that
/// one piece of eight rows that follow each other lies in all banks.
template <int kWidth>
struct Bf16Tile {
  static constexpr int kPieces = kWidth / 8, kRowBytes = 2 * kWidth;
  static_assert(kPieces % 8 == 0);
  std::byte* data;

  static constexpr int bytes(int rows) { return rows * kRowBytes; }
  /// Its rows from a multiple of 8 on.
  __device__ Bf16Tile from(int row) const { return {data + row * kRowBytes}; }

  /// Fragment a of rows row .. row + 15, columns 16 step ..; `row` is a multiple of 16.
  __device__ void load_left(unsigned (&a)[4], int row, int step) const {
    load_matrices(a, piece_of(row, step));
  }
  /// Fragments b whose columns are rows row .. row + 7 (b[0], b[2]) and row + 8 .. row + 15 (b[1],
  /// b[3]) of the tile, and whose places are columns 16 step .. of the tile.
  __device__ void load_right(unsigned (&b)[4], int row, int step) const {
    load_matrices(b, piece_of(row, step));
  }
  /// Fragments b whose places are rows row .. row + 15 of the tile, and whose columns are columns
  /// 16 step .. (b[0], b[1]) and 16 step + 8 .. (b[2], b[3]) of the tile.
  __device__ void load_right_transposed(unsigned (&b)[4], int row, int step) const {
    load_matrices_transposed(b, piece_of(row, step));
  }

 private:
  // Of 16 x 16 values, this lane's row of the four matrices: rows 0..7 | rows 8..15 | the second
  // half of each. Written so that all loads of a kernel share what depends on the lane: four
  // offsets, to which constants are added.
  __device__ const std::byte* piece_of(int row, int step) const {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const int own = lane % 16 * kRowBytes + ((32 * step % 128) ^ ((lane / 16 ^ (lane & 7)) * 16));
    return data + own + row * kRowBytes + 32 * step / 128 * 128;
  }
};

/// Copies of kRows rows into tiles by kThreads threads, a block or a warp: each has one piece of
/// every kStep-th row.
template <int kWidth, int kRows, int kThreads = kTileThreads>
class TileCopy {
 public:
  /// `first` is row 0 of the first tile.
  __device__ TileCopy(const std::uint16_t* first, std::int64_t stride)
      : from_(first + own_row() * stride + own_piece() * 8), stride_(stride) {}

  /// Begins to copy a tile; the next call copies the kRows rows behind. Rows at `count` and more,
  /// and columns at `dim` (a multiple of 8) and more, become zeros.
  __device__ void begin(const Bf16Tile<kWidth>& to, int count, int dim) {
    const int rows = own_piece() * 8 < dim ? count - own_row() : 0;
    std::byte* const own = to.data + own_row() * Tile::kRowBytes;
    const std::uint16_t* from = from_;
#pragma unroll
    for (int i = 0; i < kRows / kStep; ++i) {
      copy_async(
          own + i * kStep * Tile::kRowBytes + (own_piece() ^ ((own_row() + i * kStep) & 7)) * 16,
          from, i * kStep < rows ? 16 : 0);
      from += kStep * stride_;
    }
    from_ = from;
  }

 private:
  using Tile = Bf16Tile<kWidth>;
  static constexpr int kStep = kThreads / Tile::kPieces;
  static_assert(kRows % kStep == 0);
  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kThreads; }
  __device__ static int own_piece() { return thread() % Tile::kPieces; }
  __device__ static int own_row() { return thread() / Tile::kPieces; }

  const std::uint16_t* from_;
  std::int64_t stride_;
};

/// Sums of a warp: kRowTiles * 16 rows, kColumns columns.
template <int kRowTiles, int kColumns>
using WarpSums = float[kRowTiles][kColumns / 8][4];

/// Fragments a of a warp: kRowTiles * 16 rows, kPlaces places.
template <int kRowTiles, int kPlaces>
using WarpRows = unsigned[kRowTiles][kPlaces / 16][4];

/// sums = left rows (from `row` on) times right rows. kStepsAtOnce steps of 16 columns are
/// unrolled: all, or fewer where registers are short.
template <int kStepsAtOnce, int kRowTiles, int kColumns, int kWidth>
__device__ void multiply_rows(float (&sums)[kRowTiles][kColumns][4], const Bf16Tile<kWidth>& left,
                              int row, const Bf16Tile<kWidth>& right) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[m][n][i] = 0.0f;
    }
  }
#pragma unroll kStepsAtOnce
  for (int step = 0; step < kWidth / 16; ++step) {
    unsigned a[kRowTiles][4];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) left.load_left(a[m], row + 16 * m, step);
#pragma unroll
    for (int n = 0; n < kColumns; n += 2) {
      unsigned b[4];
      right.load_right(b, 8 * n, step);
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        multiply_add(sums[m][n], a[m], b[0], b[2]);
        multiply_add(sums[m][n + 1], a[m], b[1], b[3]);
      }
    }
  }
}

/// sums += left times the tile, whose rows are left's places.
template <int kRowTiles, int kPlaces, int kColumns, int kWidth>
__device__ void multiply_columns(float (&sums)[kRowTiles][kColumns][4],
                                 const unsigned (&left)[kRowTiles][kPlaces][4],
                                 const Bf16Tile<kWidth>& right) {
  static_assert(kColumns * 8 == kWidth);
#pragma unroll
  for (int place = 0; place < kPlaces; ++place) {
#pragma unroll
    for (int step = 0; step < kWidth / 16; ++step) {
      unsigned b[4];
      right.load_right_transposed(b, 16 * place, step);
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        multiply_add(sums[m][2 * step], left[m][place], b[0], b[1]);
        multiply_add(sums[m][2 * step + 1], left[m][place], b[2], b[3]);
      }
    }
  }
}

/// Columns of a row tile's sums, rounded to bf16, as the places of fragments a.
template <int kColumns>
__device__ void round_to_rows(unsigned (&rows)[kColumns / 2][4], const float (&sums)[kColumns][4]) {
#pragma unroll
  for (int n = 0; n < kColumns; ++n) {
    rows[n / 2][n % 2 * 2] = bf16_pair(sums[n][0], sums[n][1]);
    rows[n / 2][n % 2 * 2 + 1] = bf16_pair(sums[n][2], sums[n][3]);
  }
}

/// Rows g and g + 8 of a warp's row tile, times a factor each, to rows from `row` on; those at
/// `count` and more, and columns of `dim` and more, are dropped. `column` is even.
template <int kColumns>
__device__ void store_row_tile(const FloatRows& to, std::int64_t row, std::int64_t column,
                               int count, int dim, const float (&sums)[kColumns][4], float factor,
                               float lower_factor) {
  const int g = static_cast<int>(threadIdx.x % kWarp) / 4, t = static_cast<int>(threadIdx.x) % 4;
  const bool in_pairs = to.stride % 2 == 0 && reinterpret_cast<std::uintptr_t>(to.data) % 4 == 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (g + 8 * half >= count) continue;
    const std::int64_t at = (row + g + 8 * half) * to.stride + column + 2 * t;
    const float own_factor = half == 0 ? factor : lower_factor;
    const auto store_each = [&](auto store) {
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        if (8 * n + 2 * t < dim) {
          store(8 * n, sums[n][2 * half] * own_factor, sums[n][2 * half + 1] * own_factor);
        }
      }
    };
    auto* const halves = static_cast<std::uint16_t*>(to.data) + at;
    if (!to.bf16) {
      float* const floats = static_cast<float*>(to.data) + at;
      store_each([=](int i, float first, float second) {
        floats[i] = first;
        floats[i + 1] = second;
      });
    } else if (in_pairs) {
      store_each([=](int i, float first, float second) {
        *reinterpret_cast<unsigned*>(halves + i) = bf16_pair(first, second);
      });
    } else {
      store_each([=](int i, float first, float second) {
        halves[i] = float_to_bf16(first);
        halves[i + 1] = float_to_bf16(second);
      });
    }
  }
}

}  // namespace quest::cuda
