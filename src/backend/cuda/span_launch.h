// What launches over the sequences of a pass share: where kernels find the list, and their blocks.
#pragma once

#include <algorithm>

#include "backend/cuda/attention_order.cuh"
#include "backend/cuda/cuda_backend.h"

namespace quest::cuda {

inline unsigned narrow(std::int64_t count) { return static_cast<unsigned>(count); }

inline std::int64_t longest(std::span<const SequenceSpan> spans) {
  std::int64_t count = 0;
  for (const SequenceSpan& span : spans) count = std::max(count, span.count);
  return count;
}

inline std::int64_t most_keys(std::span<const SequenceSpan> spans) {
  std::int64_t count = 0;
  for (const SequenceSpan& span : spans) count = std::max(count, span.key_length());
  return count;
}

inline Spans list_of(const SequenceSpans& spans) {
  return {static_cast<const SequenceSpan*>(device_twin(spans.on_device)), {}, 0, 0};
}

/// All tiles at once: for kernels that do not use the second-level cache well anyway.
inline TileOrder plain_order(std::int64_t lines, unsigned tiles) {
  return {narrow(lines), tiles, narrow(lines)};
}

/// A launch of one block a tile.
inline Launch with_blocks(Launch how, const TileOrder& order, int threads, int shared_bytes) {
  how.grid = dim3(order.lines * order.tiles);
  how.threads = narrow(threads);
  how.shared_bytes = shared_bytes;
  return how;
}

}  // namespace quest::cuda
