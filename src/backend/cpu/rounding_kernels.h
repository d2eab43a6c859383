// RoundingKernels: the rounding of gradients to integers in one instruction set.
//
// As quant_kernels.h, for files compiled for one instruction set: plain types alone.
#pragma once

#include <cstdint>

#include "backend/cpu/quant_kernels.h"

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
  /// stand in row `place` from column `first`, a multiple of 128, on.
  std::int32_t (*round)(std::int8_t* codes, const GradientRow& row, const std::uint32_t* key,
                        std::int64_t place, std::int64_t first);
};

extern const RoundingKernels kRoundingGeneric;
extern const RoundingKernels kRoundingAvx2;
extern const RoundingKernels kRoundingAvx512;

}  // namespace quest
