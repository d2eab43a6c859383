// The tile registers of AMX as products and attention use them.
//
// Registers 0 to 3 hold two by two tiles of sums, 4 and 5 two tiles of rows of the first operand, 6
// and 7 two tiles of columns of the second. For files compiled for AMX only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "backend/cpu/simd/first_lanes.h"
#include "backend/cpu/simd/tile_layout.h"

namespace quest {
namespace {

constexpr int kStripRows = 2 * kTileRows;
constexpr int kPanelColumns = 2 * kTileRows;

/// The operand of LDTILECFG.
struct alignas(64) TileConfig {
  std::uint8_t palette;
  std::uint8_t start_row;
  std::uint8_t reserved[14];
  std::uint16_t row_bytes[16];
  std::uint8_t rows[16];
};

/// For `rows` of the first operand, 1 to 32. Up to 16 of them fill one tile; the kernels then
/// multiply that tile twice.
inline void configure_tiles(std::int64_t rows) {
  TileConfig config{};
  config.palette = 1;
  for (int i = 0; i < 8; ++i) config.row_bytes[i] = kTileBytes;
  const auto upper = static_cast<std::uint8_t>(rows < kTileRows ? rows : kTileRows);
  const auto lower = static_cast<std::uint8_t>(rows > kTileRows ? rows - kTileRows : rows);
  const std::uint8_t counts[8] = {upper, upper, lower, lower, upper, lower, kTileRows, kTileRows};
  __builtin_memcpy(config.rows, counts, sizeof counts);
  asm volatile("ldtilecfg %0" : : "m"(config));
}

/// sums [32][32], 4 bytes each.
inline void store_sums(void* sums) {
  constexpr std::int64_t kStride = kPanelColumns * 4;
  auto* const to = static_cast<std::uint8_t*>(sums);
  _tile_stored(0, to, kStride);
  _tile_stored(1, to + kTileBytes, kStride);
  _tile_stored(2, to + kTileRows * kStride, kStride);
  _tile_stored(3, to + kTileRows * kStride + kTileBytes, kStride);
}

}  // namespace
}  // namespace quest
