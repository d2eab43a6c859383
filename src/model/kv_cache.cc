// KvCache: appending rows of each sequence at its place.
#include "model/kv_cache.h"

#include <cassert>

namespace quest {

KvCache::KvCache(Arena& arena, const ModelConfig& config, DType dtype, std::int64_t batch,
                 std::int64_t capacity)
    : capacity_(capacity) {
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const Shape shape{batch * capacity, config.kv_width()};
    layers_.push_back({arena.take(shape, dtype), arena.take(shape, dtype)});
  }
}

KvView KvCache::append(Backend& backend, std::int64_t layer, Tensor k, Tensor v, std::int64_t batch,
                       std::int64_t length) const {
  if (layers_.empty()) return {k, v, length, length};
  assert(length_ + length <= capacity_);
  const Layer& kept = layers_[static_cast<std::size_t>(layer)];
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int64_t start = b * capacity_ + length_;
    backend.copy(kept.k.rows_slice(start, start + length),
                 k.rows_slice(b * length, (b + 1) * length));
    backend.copy(kept.v.rows_slice(start, start + length),
                 v.rows_slice(b * length, (b + 1) * length));
  }
  return {kept.k, kept.v, length_ + length, capacity_};
}

}  // namespace quest
