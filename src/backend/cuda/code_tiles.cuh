// Factors of products of codes on tensor cores: how their tiles come into shared memory, and from
// there into the registers of a warp.
//
// A tile has kCount output rows (or columns) and 64 or 128 places of the sum, a byte each.
// Chunks of 16 bytes lie at their index XOR a number of their line, such that the eight rows which
// a warp loads at once, and the eight chunks which it stores at once, lie in different banks.
#pragma once

#include "backend/cuda/tensor_core.cuh"

namespace quest::cuda {

inline constexpr int kCodeDepth = 64;  // places of the sum in a stage for mma
inline constexpr int kChunk = 16;      // bytes of a copy, and of a row of a matrix

/// Codes [count, summed]: the sum runs along rows, which begin at multiples of 16 bytes.
struct CodeRows {
  const std::int8_t* codes;
  std::int64_t stride, count;
};
/// The same as unsigned numbers: packed codes of 8 bits.
struct UnsignedCodeRows {
  const std::int8_t* codes;
  std::int64_t stride, count;
};
/// Codes [summed, count]: the sum runs down columns; rows begin at multiples of 16 bytes.
struct CodeColumns {
  const std::int8_t* codes;
  std::int64_t stride, count;
};
/// Packed codes of 1, 2 or 4 bits; rows begin at multiples of 4, 4 or 8 bytes.
template <int kBits>
struct PackedCodeRows {
  const std::uint8_t* bytes;
  std::int64_t stride, count, row_bytes;
};

/// How many of [at, at + size) lie before `end`.
__device__ inline int count_before(std::int64_t end, std::int64_t at, int size) {
  const std::int64_t left = end - at;
  return left <= 0 ? 0 : left < size ? static_cast<int>(left) : size;
}

/// Even bytes of four halfwords of two columns, or odd ones: four places of one column, from what
/// load_matrices_transposed leaves of two matrices.
__device__ inline unsigned column_of_two(unsigned first, unsigned second, int odd) {
  return __byte_perm(first, second, odd != 0 ? 0x7531u : 0x6420u);
}

/// Row i of matrix m among the 32 places whose columns a warp loads transposed: lane t of a column
/// then gets places 4 t .. 4 t + 3 of the first sixteen, and those of the other sixteen.
__device__ inline int transposed_place(int matrix, int i) {
  return matrix / 2 * 16 + i / 2 * 4 + matrix % 2 * 2 + i % 2;
}

/// Where the chunk of a row lies in a tile of rows whose matrices warps load (load_matrices).
template <bool kIsLeft>
struct LoadedLayout {
  static constexpr int kDepth = kCodeDepth;  // places of a row
  __device__ static int chunk_offset(int row, int chunk) {
    const int twist = kIsLeft ? row / 2 % 4 : row / 8 % 4;
    return row * kDepth + (chunk ^ twist) * kChunk;
  }
};

/// Tiles of CodeRows, as rows of Layout::kDepth bytes. Left factors give a warp 16 rows in their
/// order. Of right ones four tiles of mma have 32 rows, of which tile j has 8 t + 2 j and the next:
/// so a lane holds eight neighbouring columns of outputs.
template <int kCount, int kThreads, typename Layout>
class RowTiles {
  static constexpr int kDepth = Layout::kDepth;

 public:
  static constexpr int kStageBytes = kCount * kDepth;
  static constexpr int kExpandedBytes = 0;
  static constexpr int kRun = 8;  // neighbouring columns in a lane

  __device__ RowTiles(const std::int8_t* codes, std::int64_t stride, std::int64_t count,
                      std::int64_t first, std::int64_t summed)
      : summed_(static_cast<int>(summed)),
        rows_left_(count_before(count, first, kCount)),
        stride_(static_cast<int>(stride)) {
    const int row = static_cast<int>(threadIdx.x) / kChunks;
    const int chunk = static_cast<int>(threadIdx.x) % kChunks;
    source_ = codes + (first + row) * stride + chunk * kChunk;
    target_ = Layout::chunk_offset(row, chunk);
  }

  /// Begins to copy the tile of a step to a stage.
  __device__ void start(std::byte* stage, int step) const {
    const int row = static_cast<int>(threadIdx.x) / kChunks;
    const int chunk = static_cast<int>(threadIdx.x) % kChunks;
    const int bytes = count_before(summed_, step * kDepth + chunk * kChunk, kChunk);
#pragma unroll
    for (int i = 0; i < kCount; i += kRowsAtOnce) {
      copy_async<kChunk>(stage + target_ + i * kDepth,
                         source_ + std::int64_t{i} * stride_ + step * kDepth,
                         row + i < rows_left_ ? bytes : 0);
    }
  }
  __device__ void expand(std::byte*, std::byte*) const {}
  /// Where the tile of a step is, once it has come.
  __device__ static const std::byte* tile(const std::byte* stage, const std::byte*) {
    return stage;
  }

  /// Rows first .. first + 15 as a left factor, places 32 part and the 32 after it.
  __device__ static void load_left(unsigned (&a)[4], const std::byte* tile, int first, int part) {
    const int lane = static_cast<int>(threadIdx.x) % 32, row = lane % 16;
    const int chunk = 2 * part + lane / 16;
    load_matrices(a, tile + first * kDepth + Layout::chunk_offset(row, chunk));
  }
  /// Row 0 or 1 of a lane among 16.
  __device__ static int left_row(int half) {
    return half * 8 + static_cast<int>(threadIdx.x) % 32 / 4;
  }
  /// A pair of mma's tiles as right factors: pairs 2 i and 2 i + 1 are the 32 rows 32 i ...
  __device__ static void load_right(unsigned (&b)[4], const std::byte* tile, int pair, int part) {
    const int lane = static_cast<int>(threadIdx.x) % 32, i = lane % 8;
    const int row = i / 2 * 8 + pair % 2 * 4 + lane / 16 * 2 + i % 2;
    const int chunk = 2 * part + lane / 8 % 2;
    load_matrices(b, tile + pair / 2 * 32 * kDepth + Layout::chunk_offset(row, chunk));
  }
  /// First column of run 0 of a lane among 32, and which sum of which tile its column i has.
  __device__ static int first_column(int) { return static_cast<int>(threadIdx.x) % 4 * 8; }
  __device__ static constexpr int tile_of(int i) { return i / 2; }
  __device__ static constexpr int place_of(int i) { return i % 2; }

 private:
  static constexpr int kChunks = kDepth / kChunk;
  static constexpr int kRowsAtOnce = kThreads / kChunks;
  static_assert(kCount % kRowsAtOnce == 0 && kRowsAtOnce % 32 == 0);

  // Sums have at most 32768 places, and strides fit 32 bits: registers are what a block runs out
  // of.
  int summed_, rows_left_, stride_, target_;
  const std::int8_t* source_;
};

/// Tiles of CodeColumns, as kCodeDepth rows of kCount bytes; transposed on the way to registers.
/// Halfwords are what is transposed, so a warp gets columns by twos.
template <int kCount, int kThreads>
class ColumnTiles {
 public:
  static constexpr int kStageBytes = kCount * kCodeDepth;
  static constexpr int kExpandedBytes = 0;
  static constexpr int kRun = 4;

  __device__ ColumnTiles(const std::int8_t* codes, std::int64_t stride, std::int64_t count,
                         std::int64_t first, std::int64_t summed)
      : summed_(static_cast<int>(summed)), stride_(static_cast<int>(stride)) {
    const int place = static_cast<int>(threadIdx.x) / kChunks;
    const int chunk = static_cast<int>(threadIdx.x) % kChunks;
    bytes_ = count_before(count, first + chunk * kChunk, kChunk);
    source_ = codes + place * stride + first + chunk * kChunk;
    target_ = place * kCount + (chunk ^ twist(place)) * kChunk;
  }

  __device__ void start(std::byte* stage, int step) const {
    const int place = step * kCodeDepth + static_cast<int>(threadIdx.x) / kChunks;
#pragma unroll
    for (int i = 0; i < kCodeDepth; i += kPlacesAtOnce) {
      copy_async<kChunk>(stage + target_ + i * kCount,
                         source_ + std::int64_t{step * kCodeDepth + i} * stride_,
                         place + i < summed_ ? bytes_ : 0);
    }
  }
  __device__ void expand(std::byte*, std::byte*) const {}
  __device__ static const std::byte* tile(const std::byte* stage, const std::byte*) {
    return stage;
  }

  __device__ static void load_left(unsigned (&a)[4], const std::byte* tile, int first, int part) {
    unsigned columns[4];
    load_sixteen(columns, tile, first / kChunk, part);
    for (int half = 0; half < 2; ++half) {
      a[half] = column_of_two(columns[0], columns[1], half);
      a[half + 2] = column_of_two(columns[2], columns[3], half);
    }
  }
  __device__ static int left_row(int half) {
    return static_cast<int>(threadIdx.x) % 32 / 4 * 2 + half;
  }
  __device__ static void load_right(unsigned (&b)[4], const std::byte* tile, int pair, int part) {
    unsigned columns[4];
    load_sixteen(columns, tile, pair, part);
    for (int odd = 0; odd < 2; ++odd) {
      b[2 * odd] = column_of_two(columns[0], columns[1], odd);
      b[2 * odd + 1] = column_of_two(columns[2], columns[3], odd);
    }
  }
  __device__ static int first_column(int run) {
    return run * 16 + static_cast<int>(threadIdx.x) % 4 * 4;
  }
  __device__ static constexpr int tile_of(int i) { return i / 4 * 2 + i % 2; }
  __device__ static constexpr int place_of(int i) { return i / 2 % 2; }

 private:
  static constexpr int kChunks = kCount / kChunk;
  static constexpr int kPlacesAtOnce = kThreads / kChunks;
  static_assert(kCodeDepth % kPlacesAtOnce == 0 && kPlacesAtOnce % 16 == 0);

  // The places which a warp loads at once are 0, 1, 4, 5, 8, 9, 12, 13, or those two after them.
  __device__ static int twist(int place) {
    return kChunks >= 8 ? place % 2 + place / 4 % 4 * 2 : place / 4 % 4;
  }
  __device__ static void load_sixteen(unsigned (&to)[4], const std::byte* tile, int chunk,
                                      int part) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int place = transposed_place(lane / 8, lane % 8);
    load_matrices_transposed(to,
                             tile + (32 * part + place) * kCount + (chunk ^ twist(place)) * kChunk);
  }

  int summed_, stride_, bytes_, target_;
  const std::int8_t* source_;
};

/// Four codes of the lowest bits of `codes` as four bytes.
template <int kBits>
__device__ unsigned spread(unsigned codes) {
  if constexpr (kBits == 1) {
    return ((codes & 0xfu) * 0x00204081u) & 0x01010101u;
  } else if constexpr (kBits == 2) {
    const unsigned pairs = (codes | codes << 12) & 0x000f000fu;
    return (pairs | pairs << 6) & 0x03030303u;
  } else {
    const unsigned pairs = (codes | codes << 8) & 0x00ff00ffu;
    return (pairs | pairs << 4) & 0x0f0f0f0fu;
  }
}

/// Tiles of PackedCodeRows as right factors: a thread copies a unit of a row as it is, and a step
/// later makes bytes of it, unsigned, in one of several expanded tiles, which are as those of
/// RowTiles.
template <int kBits, int kCount, int kThreads, typename Layout>
class PackedTiles {
  static constexpr int kDepth = Layout::kDepth;
  static constexpr int kUnitCodes = kBits == 1 ? 32 : 16;  // at least the 4 bytes of a copy
  static constexpr int kUnitBytes = kUnitCodes * kBits / 8;
  static constexpr int kUnits = kDepth / kUnitCodes;  // of a row
  static constexpr int kRowsAtOnce = kThreads / kUnits;
  static_assert(kCount % kRowsAtOnce == 0);
  using Expanded = RowTiles<kCount, kThreads, Layout>;

 public:
  static constexpr int kStageBytes = kCount * kDepth * kBits / 8;
  static constexpr int kExpandedBytes = kCount * kDepth;
  static constexpr int kRun = Expanded::kRun;

  __device__ PackedTiles(const PackedCodeRows<kBits>& rows, std::int64_t first)
      : rows_left_(count_before(rows.count, first, kCount)),
        row_bytes_(static_cast<int>(rows.row_bytes)),
        stride_(static_cast<int>(rows.stride)) {
    source_ = rows.bytes + (first + row()) * rows.stride + unit() * kUnitBytes;
  }

  __device__ void start(std::byte* stage, int step) const {
    const int at = step * (kDepth * kBits / 8);
    const int bytes = count_before(row_bytes_, at + unit() * kUnitBytes, kUnitBytes);
#pragma unroll
    for (int i = 0; i < kCount; i += kRowsAtOnce) {
      copy_async<kUnitBytes>(stage + own_unit(i), source_ + std::int64_t{i} * stride_ + at,
                             row() + i < rows_left_ ? bytes : 0);
    }
  }
  /// This thread's own copies to `stage` have come. Expanded bytes are seen after a barrier.
  __device__ void expand(const std::byte* stage, std::byte* expanded) const {
#pragma unroll
    for (int i = 0; i < kCount; i += kRowsAtOnce) {
      unsigned words[kUnitBytes / 4];
      const auto* const unit_words = reinterpret_cast<const unsigned*>(stage + own_unit(i));
      for (int w = 0; w < kUnitBytes / 4; ++w) words[w] = unit_words[w];
#pragma unroll
      for (int c = 0; c < kUnitCodes / kChunk; ++c) {
        unsigned bytes[4];
#pragma unroll
        for (int quad = 0; quad < 4; ++quad) {
          const int bit = (c * kChunk + quad * 4) * kBits;
          bytes[quad] = spread<kBits>(words[bit / 32] >> bit % 32 & ((1u << 4 * kBits) - 1));
        }
        const int chunk = unit() * (kUnitCodes / kChunk) + c;
        *reinterpret_cast<uint4*>(expanded + Layout::chunk_offset(row() + i, chunk)) =
            make_uint4(bytes[0], bytes[1], bytes[2], bytes[3]);
      }
    }
  }
  __device__ static const std::byte* tile(const std::byte*, const std::byte* expanded) {
    return expanded;
  }
  __device__ static void load_right(unsigned (&b)[4], const std::byte* tile, int pair, int part) {
    Expanded::load_right(b, tile, pair, part);
  }
  __device__ static int first_column(int run) { return Expanded::first_column(run); }
  __device__ static constexpr int tile_of(int i) { return Expanded::tile_of(i); }
  __device__ static constexpr int place_of(int i) { return Expanded::place_of(i); }

 private:
  __device__ static int row() { return static_cast<int>(threadIdx.x) / kUnits; }
  __device__ static int unit() { return static_cast<int>(threadIdx.x) % kUnits; }
  __device__ static int own_unit(int i) {
    return (i * kUnits + static_cast<int>(threadIdx.x)) * kUnitBytes;
  }

  int rows_left_, row_bytes_, stride_;
  const std::uint8_t* source_;
};

/// The tiles of a factor in a block of kThreads threads; kUnsigned: of unsigned numbers.
template <typename Factor, int kCount, int kThreads, typename Layout>
struct TilesOf;
template <int kCount, int kThreads, typename Layout>
struct TilesOf<CodeRows, kCount, kThreads, Layout> : RowTiles<kCount, kThreads, Layout> {
  static constexpr bool kUnsigned = false;
  __device__ TilesOf(const CodeRows& rows, std::int64_t first, std::int64_t summed)
      : RowTiles<kCount, kThreads, Layout>(rows.codes, rows.stride, rows.count, first, summed) {}
};
template <int kCount, int kThreads, typename Layout>
struct TilesOf<UnsignedCodeRows, kCount, kThreads, Layout> : RowTiles<kCount, kThreads, Layout> {
  static constexpr bool kUnsigned = true;
  __device__ TilesOf(const UnsignedCodeRows& rows, std::int64_t first, std::int64_t summed)
      : RowTiles<kCount, kThreads, Layout>(rows.codes, rows.stride, rows.count, first, summed) {}
};
template <int kCount, int kThreads, typename Layout>
struct TilesOf<CodeColumns, kCount, kThreads, Layout> : ColumnTiles<kCount, kThreads> {
  static constexpr bool kUnsigned = false;
  __device__ TilesOf(const CodeColumns& columns, std::int64_t first, std::int64_t summed)
      : ColumnTiles<kCount, kThreads>(columns.codes, columns.stride, columns.count, first, summed) {
  }
};
template <int kBits, int kCount, int kThreads, typename Layout>
struct TilesOf<PackedCodeRows<kBits>, kCount, kThreads, Layout>
    : PackedTiles<kBits, kCount, kThreads, Layout> {
  static constexpr bool kUnsigned = true;
  __device__ TilesOf(const PackedCodeRows<kBits>& rows, std::int64_t first, std::int64_t)
      : PackedTiles<kBits, kCount, kThreads, Layout>(rows, first) {}
};

}  // namespace quest::cuda
