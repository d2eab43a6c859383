// CacheRows and SequenceSpans: kept keys or values, and what one pass does to each kept sequence.
#pragma once

#include <cstdint>
#include <span>

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

/// What a pass does to its sequences, one span each.
struct SequenceSpans : std::span<const SequenceSpan> {
  using std::span<const SequenceSpan>::span;

  /// i64 [spans, 4]: the list where kernels of a device read it; null for those of the host. What
  /// is recorded (Recording) is so for any values there with the same counts.
  Tensor on_device;
  /// No sequence will have more positions; how a device shares out the work depends on it, and not
  /// on what the list says. 0: no more than now.
  std::int64_t capacity = 0;
};

/// How q, k and v rows are cut into heads.
struct HeadShape {
  std::int64_t heads;     ///< H
  std::int64_t kv_heads;  ///< Hkv, divides H; head h reads key head h / (H / Hkv)
  std::int64_t head_dim;  ///< D
};

}  // namespace quest
