// Packers of operands of products of bytes in tiles.
#pragma once

#include "backend/cpu/simd/spread_avx512.h"
#include "backend/cpu/tiles/tile_packing.inc.h"

namespace quest {
namespace {

// --- Packed rows of weights ---

/// Fields as codes. What stands where a row has no codes meets zeros of the first operand.
template <int bits>
inline __m512i unpacked(__m512i fields) {
  return _mm512_sub_epi8(fields, _mm512_set1_epi8(static_cast<char>(1 << (bits - 1))));
}

/// Four fields of every dword from field 4 * place on, as bytes.
template <int bits, int place>
inline __m512i fields_of_dwords(__m512i dwords) {
  alignas(64) static constexpr auto kShifts = [] {
    struct {
      std::uint8_t shifts[64];
    } table{};
    for (int i = 0; i < 64; ++i) {
      table.shifts[i] = static_cast<std::uint8_t>(i / 4 % 2 * 32 + (4 * place + i % 4) * bits);
    }
    return table;
  }();
  const __m512i moved = _mm512_multishift_epi64_epi8(_mm512_load_si512(kShifts.shifts), dwords);
  return _mm512_and_si512(moved, _mm512_set1_epi8(static_cast<char>((1 << bits) - 1)));
}

/// The fields of dwords as rows of a tile, four fields a row.
template <int bits, int place = 0>
inline void store_places(std::uint8_t* rows, __m512i dwords) {
  _mm512_store_si512(rows, unpacked<bits>(fields_of_dwords<bits, place>(dwords)));
  if constexpr (place + 1 < 8 / bits) store_places<bits, place + 1>(rows + kTileBytes, dwords);
}

/// Sixteen packed rows.
struct SixteenPackedRows {
  const std::uint8_t* data;
  std::int64_t stride;
  std::int64_t count;  ///< rows that exist
  std::int64_t bytes;  ///< of a row

  __m512i load(std::int64_t i, std::int64_t at, std::int64_t width) const {
    if (i >= count) return _mm512_setzero_si512();
    // Weights come from memory, and no prefetcher follows so many rows.
    __builtin_prefetch(data + (i + kTileRows) * stride + at);
    return _mm512_maskz_loadu_epi8(first_bytes(least(width, bytes - at)), data + i * stride + at);
  }
};

/// Fields that fill bytes: dwords are transposed as they are packed, half the shuffles of bytes
/// with 4 bits, and their fields spread then.
template <int bits>
void pack_narrow(std::uint8_t* out, const SixteenPackedRows& rows, std::int64_t group,
                 std::int64_t groups) {
  constexpr int kPlaces = 8 / bits;             // tile rows in a dword; groups in 64 bytes
  constexpr int kDwords = kTileRows / kPlaces;  // in a group
  for (std::int64_t g = 0; g < groups; g += kPlaces) {
    __m512i block[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) block[i] = rows.load(i, (group + g) * 8 * bits, 64);
    transpose16(block);
#pragma GCC unroll 8
    for (int part = 0; part < kPlaces; ++part) {
      if (g + part == groups) return;
      std::uint8_t* tile = out + (g + part) * kTileGroupBytes;
#pragma GCC unroll 8
      for (int i = 0; i < kDwords; ++i, tile += kPlaces * kTileBytes) {
        store_places<bits>(tile, block[part * kDwords + i]);
      }
    }
  }
}

/// Other fields are spread to bytes before the transpose.
template <int bits>
void pack_wide(std::uint8_t* out, const SixteenPackedRows& rows, std::int64_t group,
               std::int64_t groups) {
  for (std::int64_t g = 0; g < groups; ++g) {
    __m512i block[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      const __m512i stream = rows.load(i, (group + g) * 8 * bits, 8 * bits);
      block[i] = unpacked<bits>(bits == 8 ? stream : spread<bits>(stream));
    }
    store_transposed(out + g * kTileGroupBytes, block);
  }
}

template <int bits>
void pack_unpacked(std::uint8_t* out, const TileSource& s, std::int64_t lane, std::int64_t group,
                   std::int64_t groups) {
  for (std::int64_t half = 0; half < 2; ++half) {
    const std::int64_t first = lane + half * kTileRows;
    const SixteenPackedRows rows{static_cast<const std::uint8_t*>(s.data) + first * s.stride,
                                 s.stride, s.lanes - first, (s.summed * bits + 7) / 8};
    constexpr auto kPack = 8 % bits == 0 && bits < 8 ? pack_narrow<bits> : pack_wide<bits>;
    kPack(out + half * kTileSize, rows, group, groups);
  }
}

void pack_transposed_packed(std::uint8_t* out, const TileSource& source, std::int64_t lane,
                            std::int64_t group, std::int64_t groups) {
  static constexpr PackBundle kByBits[8] = {pack_unpacked<1>, pack_unpacked<2>, pack_unpacked<3>,
                                            pack_unpacked<4>, pack_unpacked<5>, pack_unpacked<6>,
                                            pack_unpacked<7>, pack_unpacked<8>};
  kByBits[source.bits - 1](out, source, lane, group, groups);
}

// --- Bytes whose memory rows are rows of the second operand ---

/// Memory rows of a group, 16 columns of them.
struct QuadRows {
  const std::int8_t* data;  ///< row 0
  std::int64_t stride;
  std::int64_t count;  ///< rows that exist, up to 64
  __mmask16 valid;     ///< columns that exist

  static QuadRows of(const TileSource& s, std::int64_t lane, std::int64_t group) {
    const std::int64_t first = group * kTileDepthBytes;
    const std::int64_t left = s.lanes - lane;
    const auto valid = static_cast<__mmask16>(first_lanes(left < 0 ? 0 : least(left, 16)));
    return {static_cast<const std::int8_t*>(s.data) + first * s.stride + lane, s.stride,
            least(kTileDepthBytes, s.summed - first), valid};
  }
  bool whole() const { return count == kTileDepthBytes && valid == 0xffff; }

  template <bool all>
  __m128i row(std::int64_t r) const {
    const std::int8_t* const at = data + r * stride;
    if constexpr (all) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    return r < count ? _mm_maskz_loadu_epi8(valid, at) : _mm_setzero_si128();
  }
  /// Dword c has the bytes of column c in rows 4 i to 4 i + 3.
  template <bool all>
  __m512i quad(std::int64_t i) const {
    __m512i rows = _mm512_castsi128_si512(row<all>(4 * i));
    rows = _mm512_inserti32x4(rows, row<all>(4 * i + 1), 1);
    rows = _mm512_inserti32x4(rows, row<all>(4 * i + 2), 2);
    rows = _mm512_inserti32x4(rows, row<all>(4 * i + 3), 3);
    // Four columns of all rows into each 128 bits, then their bytes next to each other.
    const __m512i columns = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    return _mm512_shuffle_epi8(_mm512_permutexvar_epi32(columns, rows), bytes);
  }
};

/// As a tile of columns: row i has quad i.
template <bool all>
void store_quads(std::uint8_t* tile, const QuadRows& rows) {
  for (int i = 0; i < kTileRows; ++i) {
    _mm512_store_si512(tile + kTileBytes * i, rows.quad<all>(i));
  }
}

void pack_quads_bytes(std::uint8_t* out, const TileSource& source, std::int64_t lane,
                      std::int64_t group, std::int64_t groups) {
  for (std::int64_t g = group; g < group + groups; ++g) {
    for (std::int64_t half = 0; half < 2; ++half, out += kTileSize) {
      const QuadRows rows = QuadRows::of(source, lane + kTileRows * half, g);
      rows.whole() ? store_quads<true>(out, rows) : store_quads<false>(out, rows);
    }
  }
}

}  // namespace
}  // namespace quest
