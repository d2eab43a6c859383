// RoundedGradient: an output gradient as integers, for the products of the integer gradients.
#pragma once

#include "backend/backend.h"
#include "backend/cpu/rounding/rounding_kernels.h"
#include "backend/cpu/workspace.h"

namespace quest {

/// Lines of rounded values g: rows or columns of d_y, each with its scale and sum. In workspace
/// memory, which the next one takes over.
struct RoundedGradient {
  std::int64_t lines;
  std::int64_t summed;  ///< values of a line
  /// i8 [lines][summed]; for tile kernels [lines / 32][groups][2 tiles], as pack_rows_bytes makes
  /// them.
  std::int8_t* codes;
  float* scales;       ///< one a line, as LineRounding::scale
  std::int32_t* sums;  ///< one a line, of its g
};

/// What rounding works with.
struct RoundingContext {
  Workspace& workspace;
  int threads;
  const RoundingKernels& kernels;
  bool tiles;  ///< whether lines are packed for tile kernels
};

/// The rows of d_y[m,n] step_n / 2.
RoundedGradient round_rows(const RoundingContext& context, Tensor d_y, const float* steps,
                           const RoundingKey& key);

/// The columns of d_y[m,n] step_m / 2, of the rows from `first` to `last`.
RoundedGradient round_columns(const RoundingContext& context, Tensor d_y, std::int64_t first,
                              std::int64_t last, const float* steps, const RoundingKey& key);

}  // namespace quest
