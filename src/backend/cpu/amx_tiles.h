// The tile registers of AMX as both kinds of product use them.
//
// Registers 0 to 3 hold two by two tiles of sums, 4 and 5 two tiles of rows of the first operand, 6
// and 7 two tiles of columns of the second. For files compiled for AMX only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "backend/cpu/fetch_to_write.h"

namespace quest {
namespace {

constexpr int kTileRows = 16;   // of a tile register
constexpr int kTileBytes = 64;  // of a row of one
constexpr std::int64_t kTileSize = kTileRows * kTileBytes;
constexpr int kStripRows = 2 * kTileRows;
constexpr int kPanelColumns = 2 * kTileRows;

/// Ones in the first `count` <= 32 bits.
inline __mmask32 first_lanes(std::int64_t count) {
  return static_cast<__mmask32>((std::uint64_t{1} << count) - 1);
}

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

inline void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
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

/// The same for the sums [32][32] that will be stored after `steps_left` more steps: operands have
/// passed through the first-level cache since they were used.
inline void fetch_sums(const void* sums, std::int64_t steps_left) {
  constexpr std::int64_t kSteps = 8;
  constexpr std::int64_t kStepBytes = kStripRows * kPanelColumns * 4 / kSteps;
  if (steps_left >= kSteps) return;
  const auto* const part = static_cast<const std::uint8_t*>(sums) + steps_left * kStepBytes;
  for (std::int64_t i = 0; i < kStepBytes; i += 64) fetch_to_write(part + i);
}

/// How many rows before its turn a row of the output is asked for; more would fight over the few
/// places that rows a power of two apart share in the first-level cache.
constexpr std::int64_t kRowsAhead = 4;

}  // namespace
}  // namespace quest
