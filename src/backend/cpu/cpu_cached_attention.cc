// CpuBackend: keys and values that are kept, and attention of passes that append to them.
//
// A sequence of which a pass brings few rows (decoding) walks its keys as they lie in the cache,
// all such sequences and heads side by side. One with many rows (a prompt) goes through the blocks
// of `attention`, alone; keys of another type than its queries are brought into that type first.
#include <cmath>
#include <limits>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/float_rows.h"

namespace quest {
namespace {

// One query position of a span.
struct QueryRow {
  const SequenceSpan* span;
  std::int64_t index;

  std::int64_t row() const { return span->first_row + index; }
  std::int64_t visible() const { return span->position + index + 1; }
};

std::vector<QueryRow> query_rows(std::span<const SequenceSpan> spans) {
  std::vector<QueryRow> rows;
  for (const SequenceSpan& span : spans) {
    for (std::int64_t i = 0; i < span.count; ++i) rows.push_back({&span, i});
  }
  return rows;
}

// Head `head` of a sequence's rows in a cache.
struct CachedHead {
  const CacheRows& cache;
  std::int64_t first_row;
  std::int64_t head;
  std::int64_t head_dim;

  std::int64_t column() const { return head * head_dim; }
  std::int64_t stride() const { return cache.values.row_stride; }
  const std::int8_t* codes() const { return cache.values.row<std::int8_t>(first_row) + column(); }
  Floats floats() const { return row_of(cache.values, first_row, column()); }

  /// row[j] *= scale of position j.
  void apply_scales(float* row, std::int64_t count) const {
    const std::int64_t scale_stride = cache.scales.row_stride;
    const float* const scales = cache.scales.row<float>(first_row) + head;
    for (std::int64_t j = 0; j < count; ++j) row[j] *= scales[j * scale_stride];
  }
};

void scores_with(const FloatKernels& kernels, float* row, Floats q, const CachedHead& keys,
                 std::int64_t visible) {
  if (!keys.cache.scales) {
    kernels.scores(row, q, keys.floats(), keys.stride(), visible, keys.head_dim);
    return;
  }
  kernels.scores_of_codes(row, q, keys.codes(), keys.stride(), visible, keys.head_dim);
  keys.apply_scales(row, visible);
}

// Leaves `row` changed.
void weighted_sum_with(const FloatKernels& kernels, Floats out, float* row, float factor,
                       const CachedHead& values, std::int64_t visible) {
  if (!values.cache.scales) {
    kernels.weighted_sum(out, row, factor, values.floats(), values.stride(), visible,
                         values.head_dim);
    return;
  }
  values.apply_scales(row, visible);
  kernels.weighted_sum_of_codes(out, row, factor, values.codes(), values.stride(), visible,
                                values.head_dim);
}

}  // namespace

void CpuBackend::attention_of_few(Tensor out, Tensor log_sums, Tensor q, const CacheRows& k,
                                  const CacheRows& v, std::span<const SequenceSpan> spans,
                                  const HeadShape& shape) {
  const FloatKernels& kernels = float_kernels_;
  const std::vector<QueryRow> rows = query_rows(spans);
  std::int64_t longest = 0;
  for (const SequenceSpan& span : spans) longest = std::max(longest, span.key_length());
  const Tensor scores = workspace_.tensor(Workspace::Slot::kAttention,
                                          {threads_, (longest + 63) / 64 * 64}, DType::kF32);
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  const std::int64_t group = shape.heads / shape.kv_heads;
  const std::int64_t items = static_cast<std::int64_t>(rows.size()) * shape.heads;
  const std::int64_t grain = row_grain(2 * longest * shape.head_dim);
  parallel_for(threads_, items, grain, [&](std::int64_t begin, std::int64_t end, int part) {
    float* const row = scores.row<float>(part);
    for (std::int64_t item = begin; item < end; ++item) {
      const QueryRow& query = rows[static_cast<std::size_t>(item / shape.heads)];
      const std::int64_t h = item % shape.heads;
      const std::int64_t first_key = query.span->cache_row;
      const std::int64_t visible = query.visible();
      scores_with(kernels, row, row_of(q, query.row(), h * shape.head_dim),
                  {k, first_key, h / group, shape.head_dim}, visible);
      const float largest = scale * kernels.largest(row, visible);
      const float denominator = kernels.exponentials({row, false}, row, scale, largest, visible);
      if (log_sums) {
        const SequenceSpan& span = *query.span;
        const std::int64_t first = span.first_row * shape.heads + h * span.count;
        log_sums.as<float>()[first + query.index] = largest + std::log(denominator);
      }
      weighted_sum_with(kernels, row_of(out, query.row(), h * shape.head_dim), row,
                        1.0f / denominator, {v, first_key, h / group, shape.head_dim}, visible);
    }
  });
}

void CpuBackend::cache_append(const CacheRows& cache, Tensor x,
                              std::span<const SequenceSpan> spans) {
  const std::vector<QueryRow> rows = query_rows(spans);
  const std::int64_t width = x.cols();
  for_each_row(threads_, static_cast<std::int64_t>(rows.size()), width, [&](std::int64_t r) {
    const QueryRow& from = rows[static_cast<std::size_t>(r)];
    const std::int64_t to = from.span->cache_row + from.span->position + from.index;
    if (!cache.scales) {
      float_kernels_.cast(row_of(cache.values, to), row_of(x, from.row()), width);
      return;
    }
    const std::int64_t heads = cache.scales.cols(), head_dim = width / heads;
    for (std::int64_t head = 0; head < heads; ++head) {
      cache.scales.row<float>(to)[head] =
          float_kernels_.encode(cache.values.row<std::int8_t>(to) + head * head_dim,
                                row_of(x, from.row(), head * head_dim), head_dim);
    }
  });
}

// The positions of a span's sequence in `type`: where they lie, or brought into scratch.
Tensor CpuBackend::as_type(const CacheRows& cache, const SequenceSpan& span, DType type,
                           Workspace::Slot slot) {
  const std::int64_t count = span.key_length(), width = cache.values.cols();
  const Tensor kept = cache.values.rows_slice(span.cache_row, span.cache_row + count);
  if (kept.dtype == type) return kept;
  const Tensor values = workspace_.tensor(slot, {count, width}, type);
  if (!cache.scales) {
    cast_rows(float_kernels_, values, kept, threads_);
    return values;
  }
  const std::int64_t heads = cache.scales.cols(), head_dim = width / heads;
  for_each_row(threads_, count, width, [&](std::int64_t r) {
    for (std::int64_t head = 0; head < heads; ++head) {
      float_kernels_.decode(row_of(values, r, head * head_dim),
                            kept.row<std::int8_t>(r) + head * head_dim,
                            cache.scales.row<float>(span.cache_row + r)[head], head_dim);
    }
  });
  return values;
}

void CpuBackend::cached_attention(Tensor out, Tensor q, const CacheRows& k, const CacheRows& v,
                                  std::span<const SequenceSpan> spans, const HeadShape& shape) {
  std::vector<SequenceSpan> few;
  for (const SequenceSpan& span : spans) {
    if (span.count < kFewQueries) {
      few.push_back(span);
      continue;
    }
    const std::int64_t end = span.first_row + span.count;
    attention(out.rows_slice(span.first_row, end), Tensor(), q.rows_slice(span.first_row, end),
              as_type(k, span, q.dtype, Workspace::Slot::kKeys),
              as_type(v, span, q.dtype, Workspace::Slot::kValues),
              {1, span.count, span.key_length(), span.key_length(), shape.heads, shape.kv_heads,
               shape.head_dim});
  }
  if (!few.empty()) attention_of_few(out, Tensor(), q, k, v, few, shape);
}

}  // namespace quest
