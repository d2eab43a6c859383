// Packers of bf16 operands whose lanes are columns in memory, for tile registers.
#pragma once

#include "backend/cpu/tiles/tile_packing.inc.h"

namespace quest {
namespace {

void pack_columns_bf16(std::uint8_t* out, const TileSource& source, std::int64_t lane,
                       std::int64_t group, std::int64_t groups) {
  for (std::int64_t g = group; g < group + groups; ++g, out += kTileGroupBytes) {
    const SummedRows rows = summed_rows(source, lane, g);
    // Pairs of rows as dwords; unpacking takes lanes 0..3 of every 8 into one, 4..7 into the other.
    __m512i low[16], high[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      const __m512i even = load_bf16(source, rows, lane, 2 * i);
      const __m512i odd = load_bf16(source, rows, lane, 2 * i + 1);
      low[i] = _mm512_unpacklo_epi16(even, odd);
      high[i] = _mm512_unpackhi_epi16(even, odd);
    }
    transpose16(low);
    transpose16(high);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      std::uint8_t* const tile = out + (i < 8 ? 0 : kTileSize);
      const int row = i % 8 / 4 * 8 + i % 4;
      _mm512_store_si512(tile + kTileBytes * row, low[i]);
      _mm512_store_si512(tile + kTileBytes * (row + 4), high[i]);
    }
  }
}

void pack_pairs_bf16(std::uint8_t* out, const TileSource& source, std::int64_t lane,
                     std::int64_t group, std::int64_t groups) {
  // Unpacking works within 128 bits: the first half of the lanes has to lie in their lower halves.
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  for (std::int64_t g = group; g < group + groups; ++g, out += kTileGroupBytes) {
    const SummedRows rows = summed_rows(source, lane, g);
    for (std::int64_t i = 0; i < kTileRows; ++i) {
      const __m512i even = _mm512_permutexvar_epi64(order, load_bf16(source, rows, lane, 2 * i));
      const __m512i odd = _mm512_permutexvar_epi64(order, load_bf16(source, rows, lane, 2 * i + 1));
      _mm512_store_si512(out + kTileBytes * i, _mm512_unpacklo_epi16(even, odd));
      _mm512_store_si512(out + kTileSize + kTileBytes * i, _mm512_unpackhi_epi16(even, odd));
    }
  }
}

}  // namespace
}  // namespace quest
