// What all kernels of attention share: the sequences of a call, and which block takes what of them.
#pragma once

#include <cuda_runtime.h>

#include "backend/cache_rows.h"

namespace quest::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;

/// Two for each multiprocessor of an H100 or H200. It is the same on every device, so that the
/// device changes no bit where it decides how sums are cut.
inline constexpr std::int64_t kEnoughBlocks = 2 * 132;

/// The sequences of a call: a list, or equal ones at equal distances.
struct Spans {
  const SequenceSpan* list;  ///< null: equal ones
  SequenceSpan first;
  std::int64_t row_step, cache_step;
  __device__ SequenceSpan at(std::int64_t i) const {
    if (list != nullptr) return list[i];
    return {first.first_row + i * row_step, first.count, first.position,
            first.cache_row + i * cache_step};
  }
};

/// Which tile of which line (head of a sequence) a block takes: all are in the grid's x, whose
/// limit is 2^31 - 1. Blocks of one section run about at the same time, so its lines' keys should
/// fit the second-level cache; inside a section the tiles of the first rank, which have the most to
/// do, come first, so that no long one ends alone.
struct TileOrder {
  unsigned lines, tiles, section;
  struct Place {
    unsigned line, rank;
  };
  __device__ Place at(unsigned block) const {
    const unsigned before = block / (section * tiles) * section, rest = block - before * tiles;
    const unsigned inside = lines - before < section ? lines - before : section;
    return {before + rest % inside, rest / inside};
  }
};

}  // namespace quest::cuda
