// CacheRows and SequenceSpan: kept keys or values, and what one pass does to each kept sequence.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace quest {

/// Keys or values of kept sequences, one row a position.
struct CacheRows {
  Tensor values;  ///< float or i8 [rows, Hkv*D]
  Tensor scales;  ///< f32 [rows, Hkv] where values are i8: a value is code * scale; else null
};

/// The rows of a pass that belong to one sequence.
struct SequenceSpan {
  std::int64_t first_row;  ///< of the pass
  std::int64_t count;
  std::int64_t position;   ///< of the first of them in the sequence
  std::int64_t cache_row;  ///< that holds position 0 of the sequence

  /// Positions of the sequence when the pass is done.
  std::int64_t key_length() const { return position + count; }
};

/// How q, k and v rows are cut into heads.
struct HeadShape {
  std::int64_t heads;     ///< H
  std::int64_t kv_heads;  ///< Hkv, divides H; head h reads key head h / (H / Hkv)
  std::int64_t head_dim;  ///< D
};

}  // namespace quest
