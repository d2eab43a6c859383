// RoundingKernels: the rounding of gradients to integers in one instruction set.
//
// As quant_kernels.h, for files compiled for one instruction set: plain types alone.
#pragma once

#include <cstdint>

#include "backend/cpu/float_row.h"

namespace quest {

/// A piece of a row of d_y that is rounded to integers (see quant/gradient_rounding.h):
/// G[j] = x[j] * row_factor * column_factors[j], of which one factor is the half step of what d_y
/// is multiplied by and comes first, the other is LineRounding::to_fixed.
struct GradientRow {
  FloatRow x;          ///< [count]
  std::int64_t count;  ///< values
  float row_factor;
  const float* column_factors;  ///< [count rounded up to 32], in the order of paired_place
  bool columns_first;           ///< whether column_factors are the half steps
  std::int64_t next_bytes;      ///< from x to the row that follows; `round` asks for it ahead
};

/// A block of rounded rows on its way to be columns.
struct RoundedBlock {
  const std::int8_t* codes;  ///< [rows][columns]
  std::int64_t stride;       ///< from one row to the next
  std::int64_t rows;         ///< 1..64
  std::int64_t columns;
};

/// Where a factor of column j stands: those of the even columns of 32 lie before those of the odd
/// ones, as bf16 values do after widening.
static constexpr std::int64_t paired_place(std::int64_t j) {
  return j / 32 * 32 + j % 2 * 16 + j % 32 / 2;
}

/// Rounding of gradients; the same bits in every instruction set.
struct RoundingKernels {
  /// The largest magnitude of x[j] * column_factors[j]; NaN where there is one.
  float (*largest_of_row)(const GradientRow& row);
  /// largest[paired_place(j)] = the larger of itself and |x[j] * row_factor|.
  void (*largest_of_columns)(float* largest, const GradientRow& row);
  /// codes[0..count) = g; returns their sum. `key` has the two words of a RoundingKey; the values
  /// stand in row `place` from column `first`, a multiple of 256, on.
  std::int32_t (*round)(std::int8_t* codes, const GradientRow& row, const std::uint32_t* key,
                        std::int64_t place, std::int64_t first);
  /// lines[j * stride + i] = codes[i][j], sums[j] += the sum of column j.
  void (*put_lines)(std::int8_t* lines, std::int64_t stride, std::int32_t* sums,
                    const RoundedBlock& block);
  /// The same for tiles: 32 columns are two tiles of 16 rows of 64 bytes, zeros where there is no
  /// value, and lie `stride` bytes from the next 32. Null where the CPU has no tile registers.
  void (*put_tiles)(std::int8_t* tiles, std::int64_t stride, std::int32_t* sums,
                    const RoundedBlock& block);
};

extern const RoundingKernels kRoundingGeneric;
extern const RoundingKernels kRoundingAvx2;
extern const RoundingKernels kRoundingAvx512;

}  // namespace quest
