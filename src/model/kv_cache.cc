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
  device_spans_ = arena.take({slots, 4}, DType::kI64);
}

void KvCache::begin_pass(Backend& backend, std::span<const PassPart> parts) {
  spans_.clear();
  std::int64_t row = 0;
  for (const PassPart& part : parts) {
    assert(part.count > 0 && length(part.slot) + part.count <= capacity_);
    std::int64_t& length = lengths_[static_cast<std::size_t>(part.slot)];
    spans_.push_back({row, part.count, length, part.slot * capacity_});
    row += part.count;
    length += part.count;
  }
  if (spans_.empty() || backend.place() == Place::kHost) return;
  const Tensor list = spans().on_device;
  static_assert(sizeof(SequenceSpan) == 4 * sizeof(std::int64_t));
  backend.copy(list, view_of(reinterpret_cast<const std::int64_t*>(spans_.data()), list.shape));
}

SequenceSpans KvCache::spans() const {
  SequenceSpans spans(spans_);
  spans.on_device = device_spans_.rows_slice(0, std::ssize(spans_));
  spans.capacity = capacity_;
  return spans;
}

std::int64_t KvCache::pass_end() const {
  std::int64_t end = 0;
  for (const SequenceSpan& span : spans_) end = std::max(end, span.position + span.count);
  return end;
}

void KvCache::attend(Backend& backend, std::int64_t layer, Tensor out, Tensor qkv,
                     const Rotary& rotary, const HeadShape& shape) const {
  const auto& [k, v] = layers_[static_cast<std::size_t>(layer)];
  backend.cached_rope_attention(out, qkv, rotary, k, v, spans(), shape);
}

}  // namespace quest
