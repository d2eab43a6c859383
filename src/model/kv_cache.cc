// KvCache: where each sequence's positions lie.
#include "model/kv_cache.h"

#include <algorithm>
#include <cassert>

namespace quest {
namespace {

CacheRows take_rows(Arena& arena, const ModelConfig& config, DType dtype, std::int64_t rows) {
  CacheRows taken;
  taken.values = arena.take({rows, config.kv_width()}, dtype);
  if (dtype == DType::kI8) taken.scales = arena.take({rows, config.kv_heads}, DType::kF32);
  return taken;
}

}  // namespace

KvCache::KvCache(Arena& arena, const ModelConfig& config, DType dtype, std::int64_t slots,
                 std::int64_t capacity)
    : capacity_(capacity), lengths_(static_cast<std::size_t>(slots), 0) {
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const CacheRows k = take_rows(arena, config, dtype, slots * capacity);
    layers_.push_back({k, take_rows(arena, config, dtype, slots * capacity)});
  }
}

void KvCache::begin_pass(std::span<const PassPart> parts) {
  parts_.assign(parts.begin(), parts.end());
  spans_.clear();
  std::int64_t row = 0;
  for (const PassPart& part : parts) {
    assert(part.count > 0 && length(part.slot) + part.count <= capacity_);
    spans_.push_back({row, part.count, length(part.slot), part.slot * capacity_});
    row += part.count;
  }
}

std::int64_t KvCache::pass_end() const {
  std::int64_t end = 0;
  for (const SequenceSpan& span : spans_) end = std::max(end, span.position + span.count);
  return end;
}

void KvCache::append(Backend& backend, std::int64_t layer, Tensor k, Tensor v) const {
  backend.cache_append(keys(layer), k, spans_);
  backend.cache_append(values(layer), v, spans_);
}

void KvCache::end_pass() {
  for (const PassPart& part : parts_) lengths_[static_cast<std::size_t>(part.slot)] += part.count;
}

}  // namespace quest
