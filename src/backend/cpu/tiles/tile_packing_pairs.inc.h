// Packers of operands whose lanes are columns in memory, for tile products in vectors. Both
// operands lie in the same order there: row i of a tile has pair i of 16 lanes.
#pragma once

#include "backend/cpu/simd/pairs_avx512.h"
#include "backend/cpu/tiles/tile_packing.inc.h"

namespace quest {
namespace {

void pack_row_pairs(std::uint8_t* out, const TileSource& source, std::int64_t lane,
                    std::int64_t group, std::int64_t groups) {
  for (std::int64_t g = group; g < group + groups; ++g, out += kTileGroupBytes) {
    const SummedRows rows = summed_rows(source, lane, g);
    for (std::int64_t i = 0; i < kTileRows; ++i) {
      const __m512i even = load_bf16(source, rows, lane, 2 * i);
      const __m512i odd = load_bf16(source, rows, lane, 2 * i + 1);
      _mm512_store_si512(out + kTileBytes * i, pairs_of_lower(even, odd));
      _mm512_store_si512(out + kTileSize + kTileBytes * i, pairs_of_upper(even, odd));
    }
  }
}

/// Bits of codes whose values are one table of words in a register.
constexpr int kTableBits = 5;

/// The values of a row's codes, by their lowest five bits.
inline __m512i table_of_levels(float step) {
  const __m128i codes = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512 positive = levels(codes, step);
  const __m512 negative = levels(_mm_sub_epi8(codes, _mm_set1_epi8(16)), step);
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(negative, positive));
}

/// The rows of a group of codes, and their values.
class GroupOfCodes {
 public:
  GroupOfCodes(const TileSource& source, std::int64_t group)
      : source_(source), rows_(summed_rows(source, 0, group)) {
    for (std::int64_t i = 0; i < kRows; ++i) {
      _mm512_store_si512(tables_[i], i < rows_.count
                                         ? table_of_levels(source.steps[rows_.first + i])
                                         : _mm512_setzero_si512());
    }
  }

  void pack(std::uint8_t* out, std::int64_t lane) const {
    const __mmask32 valid = first_lanes(least(kTileLanes, source_.lanes - lane));
    for (std::int64_t i = 0; i < kTileRows; ++i, out += kTileBytes) {
      // Unpacking works within 128 bits: the first half of the lanes has to lie in lower halves.
      constexpr int kOrder = 0xd8;
      const __m256i even = _mm256_permute4x64_epi64(row(2 * i, lane, valid), kOrder);
      const __m256i odd = _mm256_permute4x64_epi64(row(2 * i + 1, lane, valid), kOrder);
      const auto lower = static_cast<__mmask16>(valid), upper = static_cast<__mmask16>(valid >> 16);
      _mm512_store_si512(out, values(i, _mm256_unpacklo_epi8(even, odd), lower));
      _mm512_store_si512(out + kTileSize, values(i, _mm256_unpackhi_epi8(even, odd), upper));
    }
  }

 private:
  static constexpr std::int64_t kRows = 2 * kTileRows;

  __m256i row(std::int64_t i, std::int64_t lane, __mmask32 valid) const {
    if (i >= rows_.count) return _mm256_setzero_si256();
    const auto* const codes =
        static_cast<const std::int8_t*>(source_.data) + (rows_.first + i) * source_.stride + lane;
    _mm_prefetch(codes + kRows * source_.stride, _MM_HINT_T0);
    return _mm256_maskz_loadu_epi8(valid, codes);
  }

  /// The values of codes of two rows in turn, pair `i`.
  __m512i values(std::int64_t i, __m256i codes, __mmask16 valid) const {
    // The sixth bit chooses the table; what stands above it does not count.
    const __m256i low_bits = _mm256_and_si256(codes, _mm256_set1_epi8(0x1f));
    const __m256i places = _mm256_or_si256(low_bits, _mm256_set1_epi16(0x2000));
    const __m512i values =
        _mm512_permutex2var_epi16(_mm512_load_si512(tables_[2 * i]), _mm512_cvtepu8_epi16(places),
                                  _mm512_load_si512(tables_[2 * i + 1]));
    return _mm512_maskz_mov_epi32(valid, values);
  }

  const TileSource& source_;
  SummedRows rows_;
  alignas(64) std::uint16_t tables_[kRows][1 << kTableBits];
};

void pack_row_pairs_codes(std::uint8_t* out, const TileSource& source, const TilePart& part) {
  if (source.bits > kTableBits) return each_group<pack_pairs_codes>(out, source, part);
  for (std::int64_t g = 0; g < part.groups; ++g, out += kTileGroupBytes) {
    const GroupOfCodes group(source, part.group + g);
    for (std::int64_t i = 0; i < part.bundles; ++i) {
      group.pack(out + i * part.groups * kTileGroupBytes, part.lane + i * kTileLanes);
    }
  }
}

}  // namespace
}  // namespace quest
