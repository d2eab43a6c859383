// Packed products of several rows of x on AMX tiles: rows of w, as unsigned bytes, are the first
// operand of TDPBUSD, so that 8-bit weights are read where they lie, and narrower ones are spread
// to bytes in the first-level cache without a transposition.
#include "backend/cpu/packed/packed_kernels.h"
#include "backend/cpu/simd/amx_tiles.h"
#include "backend/cpu/simd/transpose_avx512.h"

namespace quest {
namespace {

/// Columns of x that three tiles of sums hold.
constexpr std::int64_t kTilesOfX = 3;
/// Bytes ahead of which packed rows are asked for.
constexpr std::int64_t kAhead = 16384;

std::int64_t tiles_of(std::int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

std::int64_t tile_bytes(std::int64_t x_row_bytes, std::int64_t rows) {
  return x_row_bytes / kTileBytes * tiles_of(rows) * kTileSize;
}

/// Chunk c of 64 bytes of 16 rows of x is one tile: row g holds bytes 4 g .. 4 g + 3 of each of
/// them.
void pack_tiles(std::uint8_t* out, const std::uint8_t* x, std::int64_t x_row_bytes,
                std::int64_t rows) {
  for (std::int64_t at = 0; at < x_row_bytes; at += kTileBytes) {
    for (std::int64_t first = 0; first < rows; first += kTileRows, out += kTileSize) {
      __m512i block[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        block[i] = first + i < rows ? _mm512_loadu_si512(x + (first + i) * x_row_bytes + at)
                                    : _mm512_setzero_si512();
      }
      transpose16(block);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_store_si512(out + kTileBytes * i, block[i]);
    }
  }
}

/// Sixteen rows of w from row j on; rows that do not exist repeat the last one.
struct SixteenRows {
  const std::uint8_t* row[kTileRows];
  SixteenRows(const PackedDot& d, std::int64_t j) {
    for (std::int64_t r = 0; r < kTileRows; ++r) {
      row[r] = d.w + (j + r < d.columns ? j + r : d.columns - 1) * d.w_row_bytes;
    }
  }
};

/// bytes [8 / bits][16][64] = the fields of one place each of 64 bytes of the rows.
template <int bits>
inline void spread_chunk(std::uint8_t* bytes, const SixteenRows& w, std::int64_t at,
                         __mmask64 valid) {
  const __m512i mask = _mm512_set1_epi8(static_cast<char>((1 << bits) - 1));
#pragma GCC unroll 16
  for (int r = 0; r < kTileRows; ++r) {
    __builtin_prefetch(w.row[r] + at + kAhead);
    const __m512i packed = _mm512_maskz_loadu_epi8(valid, w.row[r] + at);
#pragma GCC unroll 8
    for (int place = 0; place < 8 / bits; ++place) {
      const __m512i moved =
          place == 0 ? packed : _mm512_srli_epi16(packed, static_cast<unsigned>(bits * place));
      _mm512_store_si512(bytes + place * kTileSize + r * kTileBytes,
                         bits == 8 ? moved : _mm512_and_si512(moved, mask));
    }
  }
}

/// Adds the tile of w in `bytes` times the tiles of x.
template <int tiles>
inline void multiply_tile(const std::uint8_t* bytes, std::int64_t stride, const std::uint8_t* x) {
  _tile_loadd(6, bytes, stride);
  _tile_loadd(3, x, kTileBytes);
  _tile_dpbusd(0, 6, 3);
  if constexpr (tiles > 1) {
    _tile_loadd(4, x + kTileSize, kTileBytes);
    _tile_dpbusd(1, 6, 4);
  }
  if constexpr (tiles > 2) {
    _tile_loadd(5, x + 2 * kTileSize, kTileBytes);
    _tile_dpbusd(2, 6, 5);
  }
}

/// Sums [16 rows of w][16 rows of x] of tile t to their place in d.sums.
template <int tile>
inline void put_sums(const PackedDot& d, std::int64_t first_row, std::int64_t j) {
  alignas(64) std::int32_t sums[kTileRows * kTileRows];
  // The number of a register is part of the instruction's text.
  if constexpr (tile == 0) _tile_stored(0, sums, kTileBytes);
  if constexpr (tile == 1) _tile_stored(1, sums, kTileBytes);
  if constexpr (tile == 2) _tile_stored(2, sums, kTileBytes);
  __m512i block[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) block[i] = _mm512_load_si512(sums + kTileRows * i);
  transpose16(block);
  const std::int64_t left = d.columns - j;
  const auto valid = static_cast<__mmask16>(first_lanes(left < kTileRows ? left : kTileRows));
  for (std::int64_t i = 0; i < kTileRows && first_row + i < d.rows; ++i) {
    _mm512_mask_storeu_epi32(d.sums + (first_row + i) * d.stride + j, valid, block[i]);
  }
}

/// Rows [first_tile * 16, ...) of x, `tiles` tiles of them, against all rows of w.
template <int bits, int tiles>
void dot_tiles(const PackedDot& d, std::int64_t first_tile, std::int64_t all_tiles) {
  constexpr int kPlaces = 8 / bits;
  alignas(64) std::uint8_t bytes[2][kPlaces * kTileSize];
  const std::int64_t row_bytes = (d.k * bits + 7) / 8;
  const std::int64_t chunks = (row_bytes + kTileBytes - 1) / kTileBytes;
  for (std::int64_t j = 0; j < d.columns; j += kTileRows) {
    const SixteenRows w(d, j);
    const bool whole_rows = j + kTileRows <= d.columns;
    // Eight bits need no spreading, except at the ends of rows and of the matrix.
    const auto in_place = [&](std::int64_t chunk) {
      return bits == 8 && whole_rows && (chunk + 1) * kTileBytes <= row_bytes;
    };
    const auto spread = [&](std::int64_t chunk) {
      const std::int64_t at = chunk * kTileBytes;
      if (in_place(chunk)) {
        for (int r = 0; r < kTileRows; ++r) __builtin_prefetch(w.row[r] + at + kAhead);
      } else {
        spread_chunk<bits>(bytes[chunk % 2], w, at, first_bytes(row_bytes - at));
      }
    };
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    // A tile load waits until stores before it have reached the cache: spread one chunk ahead.
    spread(0);
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      if (chunk + 1 < chunks) spread(chunk + 1);
      const std::uint8_t* const x = d.x + (chunk * kPlaces * all_tiles + first_tile) * kTileSize;
      for (std::int64_t place = 0; place < kPlaces; ++place) {
        const bool lies = in_place(chunk);
        multiply_tile<tiles>(
            lies ? w.row[0] + chunk * kTileBytes : bytes[chunk % 2] + place * kTileSize,
            lies ? d.w_row_bytes : kTileBytes, x + place * all_tiles * kTileSize);
      }
    }
    put_sums<0>(d, first_tile * kTileRows, j);
    if constexpr (tiles > 1) put_sums<1>(d, (first_tile + 1) * kTileRows, j);
    if constexpr (tiles > 2) put_sums<2>(d, (first_tile + 2) * kTileRows, j);
  }
}

template <int bits>
void dot_bits(const PackedDot& d) {
  configure_tiles(2 * kTileRows);
  const std::int64_t all = tiles_of(d.rows);
  for (std::int64_t first = 0; first < all; first += kTilesOfX) {
    const std::int64_t left = all - first;
    if (left >= 3) {
      dot_tiles<bits, 3>(d, first, all);
    } else if (left == 2) {
      dot_tiles<bits, 2>(d, first, all);
    } else {
      dot_tiles<bits, 1>(d, first, all);
    }
  }
  _tile_release();
}

void dot(const PackedDot& d) {
  switch (d.bits) {
    case 1:
      return dot_bits<1>(d);
    case 2:
      return dot_bits<2>(d);
    case 4:
      return dot_bits<4>(d);
    default:
      return dot_bits<8>(d);
  }
}

}  // namespace

const PackedTileKernels kPackedTileKernelsAmx = {
    .least_rows = 4, .tile_bytes = tile_bytes, .pack_tiles = pack_tiles, .dot = dot};

}  // namespace quest
