// Packers of operands of tile products, those of bf16 and what they share with those of bytes;
// tile_kernels.h says what each does.
//
// A tile of rows holds 16 of them, 64 bytes each. A tile of columns holds the same 64 bytes of 16
// columns in dwords: row i has dword i of every column.
#pragma once

#include <immintrin.h>

#include "backend/cpu/simd/first_lanes.h"
#include "backend/cpu/simd/tile_layout.h"
#include "backend/cpu/simd/transpose_avx512.h"
#include "backend/cpu/tiles/tile_kernels.h"

namespace quest {
namespace {

inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

/// Memory rows `lane` to `lane` + 31 of bytes, of which those from `first` on lie in the sum.
struct ByteRows {
  const std::uint8_t* data;
  std::int64_t stride;
  std::int64_t count;  ///< rows that exist, up to 32
  std::int64_t left;   ///< bytes of each that exist

  /// 64 bytes of row i from `offset` on.
  __m512i load(std::int64_t i, std::int64_t offset) const {
    const std::int64_t bytes = left - offset;
    if (i >= count || bytes <= 0) return _mm512_setzero_si512();
    if (bytes >= 64) return _mm512_loadu_si512(data + i * stride + offset);
    return _mm512_maskz_loadu_epi8((__mmask64{1} << bytes) - 1, data + i * stride + offset);
  }
};

template <int value_bytes>
ByteRows byte_rows(const TileSource& s, std::int64_t lane, std::int64_t group) {
  const std::int64_t first = group * kTileDepthBytes;
  return {static_cast<const std::uint8_t*>(s.data) + lane * s.stride * value_bytes + first,
          s.stride * value_bytes, least(kTileLanes, s.lanes - lane),
          s.summed * value_bytes - first};
}

/// Packs a bundle's groups.
using PackBundle = void (*)(std::uint8_t* out, const TileSource& source, std::int64_t lane,
                            std::int64_t group, std::int64_t groups);

/// A part whose lanes are rows in memory.
template <PackBundle pack>
void each_bundle(std::uint8_t* out, const TileSource& source, const TilePart& part) {
  for (std::int64_t i = 0; i < part.bundles; ++i, out += part.groups * kTileGroupBytes) {
    pack(out, source, part.lane + i * kTileLanes, part.group, part.groups);
  }
}

/// A part whose lanes are columns in memory: its rows are read in order.
template <PackBundle pack>
void each_group(std::uint8_t* out, const TileSource& source, const TilePart& part) {
  for (std::int64_t g = 0; g < part.groups; ++g, out += kTileGroupBytes) {
    for (std::int64_t i = 0; i < part.bundles; ++i) {
      pack(out + i * part.groups * kTileGroupBytes, source, part.lane + i * kTileLanes,
           part.group + g, 1);
    }
  }
}

template <int value_bytes>
void pack_rows(std::uint8_t* out, const TileSource& source, std::int64_t lane, std::int64_t group,
               std::int64_t groups) {
  const ByteRows rows = byte_rows<value_bytes>(source, lane, group);
  for (std::int64_t i = 0; i < kTileLanes; ++i) {
    for (std::int64_t g = 0; g < groups; ++g) {
      _mm512_store_si512(out + g * kTileGroupBytes + i * kTileBytes,
                         rows.load(i, g * kTileDepthBytes));
    }
  }
}

/// Sixteen rows of 64 bytes as a tile of columns.
inline void store_transposed(std::uint8_t* tile, __m512i (&block)[16]) {
  transpose16(block);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_store_si512(tile + kTileBytes * i, block[i]);
}

template <int value_bytes>
void pack_transposed(std::uint8_t* out, const TileSource& source, std::int64_t lane,
                     std::int64_t group, std::int64_t groups) {
  const ByteRows rows = byte_rows<value_bytes>(source, lane, group);
  for (std::int64_t g = 0; g < groups; ++g) {
    for (std::int64_t half = 0; half < 2; ++half, out += kTileSize) {
      __m512i block[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) block[i] = rows.load(16 * half + i, g * kTileDepthBytes);
      store_transposed(out, block);
    }
  }
}

/// Memory rows of a group of a source whose lanes are the columns.
struct SummedRows {
  std::int64_t first;  ///< summed value of the first row
  std::int64_t count;  ///< rows that exist, up to 32
  __mmask32 valid;     ///< lanes that exist
};

inline SummedRows summed_rows(const TileSource& s, std::int64_t lane, std::int64_t group) {
  constexpr std::int64_t kRows = kTileDepthBytes / 2;
  const std::int64_t first = group * kRows;
  return {first, least(kRows, s.summed - first), first_lanes(least(kTileLanes, s.lanes - lane))};
}

/// 32 values of row i of the group.
inline __m512i load_bf16(const TileSource& s, const SummedRows& rows, std::int64_t lane,
                         std::int64_t i) {
  if (i >= rows.count) return _mm512_setzero_si512();
  const auto* const row =
      static_cast<const std::uint16_t*>(s.data) + (rows.first + i) * s.stride + lane;
  return _mm512_maskz_loadu_epi16(rows.valid, row);
}

/// (codes + 1/2) step, whose only rounding is that of the product.
inline __m512 levels(__m128i codes, float step) {
  const __m512 q = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
  return _mm512_fmadd_ps(q, _mm512_set1_ps(step), _mm512_set1_ps(0.5f * step));
}

void pack_pairs_codes(std::uint8_t* out, const TileSource& source, std::int64_t lane,
                      std::int64_t group, std::int64_t groups) {
  alignas(64) static constexpr std::uint16_t kInterleave[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i interleave = _mm512_load_si512(kInterleave);
  for (std::int64_t g = group; g < group + groups; ++g, out += kTileGroupBytes) {
    const SummedRows rows = summed_rows(source, lane, g);
    for (std::int64_t i = 0; i < kTileRows; ++i) {
      for (int half = 0; half < 2; ++half) {
        const auto valid = static_cast<__mmask16>(rows.valid >> (16 * half));
        __m512 values[2];
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; ++odd) {
          values[odd] = _mm512_setzero_ps();
          if (2 * i + odd >= rows.count) continue;
          const std::int64_t r = rows.first + 2 * i + odd;
          const auto* const row =
              static_cast<const std::int8_t*>(source.data) + r * source.stride + lane + 16 * half;
          const __m128i codes = _mm_maskz_loadu_epi8(valid, row);
          values[odd] = _mm512_maskz_mov_ps(valid, levels(codes, source.steps[r]));
        }
        const auto both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(values[1], values[0]));
        _mm512_store_si512(out + half * kTileSize + kTileBytes * i,
                           _mm512_permutexvar_epi16(interleave, both));
      }
    }
  }
}

}  // namespace
}  // namespace quest
