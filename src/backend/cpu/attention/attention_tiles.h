// What attention on tiles and its gradient share: operands cut into tiles, and their products.
//
// A group is 32 summed values, a panel 32 columns. Where summed values are positions (of keys in
// the product with values, of queries in the gradients), a group takes them in the order 0, 16, 1,
// 17, ...: that is how two vectors of f32 become one of bf16 by a shift and a selection, which
// costs less than the conversion of the CPU and keeps the order that the other operand wants. For
// files compiled for AMX only.
#pragma once

#include "backend/cpu/attention/attention_vectors.h"
#include "backend/cpu/simd/amx_tiles.h"
#include "backend/cpu/simd/transpose_avx512.h"
#include "backend/cpu/tiles/tile_kernels.h"

namespace quest {
namespace {

constexpr std::int64_t kPanelBytes = 2 * kTileSize;       // bf16 [32][32]
constexpr std::int64_t kSumsBytes = 4 * kPanel * kPanel;  // f32 [32][32]
constexpr std::int64_t kSumsStride = kPanel;              // floats from a row to the next

/// Rows of bf16 as an operand of the tile products.
inline TileSource source_of(const std::uint16_t* x, std::int64_t stride, std::int64_t rows,
                            std::int64_t columns) {
  TileSource source{};
  source.data = x;
  source.stride = stride;
  source.lanes = rows;
  source.summed = columns;
  return source;
}

/// A first operand of 32 rows: out [groups][32 rows][32 values].
inline void copy_rows(std::uint8_t* out, const std::uint16_t* x, std::int64_t stride,
                      std::int64_t rows, std::int64_t columns) {
  kBf16TilesAmx.pack_rows(out, source_of(x, stride, rows, columns), {0, 1, 0, panels_of(columns)});
}

/// A second operand whose 32 columns are rows of x, and whose summed values are its columns:
/// out [groups][2 tiles].
inline void pack_rows_as_columns(std::uint8_t* out, const std::uint16_t* x, std::int64_t stride,
                                 std::int64_t rows, std::int64_t columns) {
  kBf16TilesAmx.pack_transposed(out, source_of(x, stride, rows, columns),
                                {0, 1, 0, panels_of(columns)});
}

/// A second operand whose group of summed values are 32 rows of x: out [panels][2 tiles], panels
/// `panel_bytes` apart. Of every 8 columns the first tile takes 0..3, the second 4..7.
void pack_rows_as_group(std::uint8_t* out, std::int64_t panel_bytes, const std::uint16_t* x,
                        std::int64_t stride, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t c = 0; c < columns; c += kPanel, out += panel_bytes) {
    const __mmask32 lanes = lanes_below(columns, c);
    for (std::int64_t i = 0; i < kTileRows; ++i) {
      const __m512i a = load_row(x + c, stride, i, rows, lanes);
      const __m512i b = load_row(x + c, stride, i + kTileRows, rows, lanes);
      _mm512_store_si512(out + i * kTileBytes, _mm512_unpacklo_epi16(a, b));
      _mm512_store_si512(out + kTileSize + i * kTileBytes, _mm512_unpackhi_epi16(a, b));
    }
  }
}

/// One row of sums of such columns, times `factor`, as bf16 in the order of the columns.
inline __m512i columns_in_order(const float* sums, __m512 factor) {
  const __m512 low = _mm512_mul_ps(_mm512_load_ps(sums), factor);
  const __m512 high = _mm512_mul_ps(_mm512_load_ps(sums + kTileRows), factor);
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  const auto both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
  return _mm512_permutexvar_epi64(order, both);
}

/// Adds what makes the upper half of a float its bf16, rounded to nearest.
inline __m512i half_up(__m512 x) {
  return _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
}
/// Upper halves of both: a[0], b[0], a[1], b[1], ...
inline __m512i interleave_upper(__m512i a, __m512i b) {
  constexpr int kAOrMaskedB = 0xf8;
  return _mm512_ternarylogic_epi32(_mm512_srli_epi32(a, 16), b, _mm512_set1_epi32(-0x10000),
                                   kAOrMaskedB);
}

/// Sums [32][32] of one product of tiles after the other. Panels stream from the second-level cache
/// past the first (TILELOADDT1), where rows and sums stay: 5 % of the whole kernels.  What a
/// product leaves in the tile registers is stored while the next one begins, tile by tile before
/// the register is used anew: stored at the end of a product, it would hold up the tile unit by
/// some 50 cycles.
class TileSums {
 public:
  /// `unused` [32][32] may be overwritten by what the registers hold at first.
  explicit TileSums(float* unused) : waiting_(unused) {}

  /// Begins the sums that shall go to `out`, or add to it, with rows [32][32] times a panel.
  void begin(const std::uint8_t* rows, const std::uint8_t* panel, float* out, bool add_to_out) {
    constexpr std::int64_t kStride = kPanel * 4, kLower = kTileRows * kSumsStride;
    float* const done = waiting_;
    waiting_ = out;
    // Tiles are loaded and stored behind the compiler's back.
    asm volatile("" ::: "memory");
    _tile_loadd(4, rows, kTileBytes);
    _tile_stream_loadd(6, panel, kTileBytes);
    _tile_stored(0, done, kStride);
    if (add_to_out) {
      _tile_loadd(0, out, kStride);
    } else {
      _tile_zero(0);
    }
    _tile_dpbf16ps(0, 4, 6);
    _tile_stream_loadd(7, panel + kTileSize, kTileBytes);
    _tile_stored(1, done + kTileRows, kStride);
    if (add_to_out) {
      _tile_loadd(1, out + kTileRows, kStride);
    } else {
      _tile_zero(1);
    }
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, rows + kTileSize, kTileBytes);
    _tile_stored(2, done + kLower, kStride);
    if (add_to_out) {
      _tile_loadd(2, out + kLower, kStride);
    } else {
      _tile_zero(2);
    }
    _tile_dpbf16ps(2, 5, 6);
    _tile_stored(3, done + kLower + kTileRows, kStride);
    if (add_to_out) {
      _tile_loadd(3, out + kLower + kTileRows, kStride);
    } else {
      _tile_zero(3);
    }
    _tile_dpbf16ps(3, 5, 7);
  }

  void add(const std::uint8_t* rows, const std::uint8_t* panel) {
    _tile_loadd(4, rows, kTileBytes);
    _tile_stream_loadd(6, panel, kTileBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_stream_loadd(7, panel + kTileSize, kTileBytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, rows + kTileSize, kTileBytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }

  /// Stores the last sums.
  void finish() const {
    store_sums(waiting_);
    asm volatile("" ::: "memory");
  }

 private:
  float* waiting_;
};

}  // namespace
}  // namespace quest
