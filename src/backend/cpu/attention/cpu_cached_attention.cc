// CpuBackend: keys and values that are kept, and attention of passes that append to them.
//
// A sequence of which a pass brings few rows (decoding) walks its keys as they lie in the cache,
// all such sequences and heads side by side. One with many rows (a prompt) goes through the blocks
// of `attention`, alone; keys of another type than its queries are brought into that type first.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/rows/float_rows.h"

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

// totals [D] += the sum over j < visible of row[j] times value j. Leaves `row` changed.
void add_weighted_with(const FloatKernels& kernels, float* totals, float* row,
                       const CachedHead& values, std::int64_t visible) {
  if (!values.cache.scales) {
    kernels.add_weighted(totals, row, values.floats(), values.stride(), visible, values.head_dim);
    return;
  }
  values.apply_scales(row, visible);
  kernels.add_weighted_codes(totals, row, values.codes(), values.stride(), visible,
                             values.head_dim);
}

// Heads [first, end) of one query, which a thread takes together: of a block of positions they read
// pieces of the same rows. Rows of a block are first read in the order of memory, for no hardware
// follows the pieces: 9 GB/s from memory on a Zen 4 without, 14 with what is computed from them.
struct HeadRun {
  const QueryRow& query;
  std::int64_t first, end;
  const HeadShape& shape;

  std::int64_t count() const { return end - first; }
  std::int64_t kv_head(std::int64_t h) const { return h / (shape.heads / shape.kv_heads); }

  /// Calls body(j, count) for each block of positions of `cache`, whose rows are then near.
  template <typename Body>
  void for_each_block(const CacheRows& cache, const Body& body) const {
    const Tensor& values = cache.values;
    const auto value_bytes = static_cast<std::int64_t>(size_bytes(values.dtype));
    const std::int64_t begin_byte = kv_head(first) * shape.head_dim * value_bytes;
    const std::int64_t end_byte = (kv_head(end - 1) + 1) * shape.head_dim * value_bytes;
    const std::int64_t row_bytes = values.row_stride * value_bytes;
    constexpr std::int64_t kBlockBytes = 1 << 16, kLineBytes = 64;
    const std::int64_t block =
        std::max<std::int64_t>(kBlockBytes / (end_byte - begin_byte) / 4 * 4, 4);
    const auto* const rows =
        static_cast<const volatile char*>(values.data) + query.span->cache_row * row_bytes;
    for (std::int64_t j = 0; j < query.visible(); j += block) {
      const std::int64_t rows_of_block = std::min(block, query.visible() - j);
      for (std::int64_t r = j; r < j + rows_of_block; ++r) {
        for (std::int64_t at = begin_byte; at < end_byte; at += kLineBytes) {
          static_cast<void>(rows[r * row_bytes + at]);
        }
      }
      body(j, rows_of_block);
    }
  }
};

// What attention of few queries reads and writes.
struct CachedAttention {
  const FloatKernels& kernels;
  Tensor out, log_sums, q;
  const CacheRows& k;
  const CacheRows& v;
  HeadShape shape;
  std::int64_t row_floats;  // of a head's scores, which its sums and a factor follow

  CachedAttention(const FloatKernels& float_kernels, Tensor to, Tensor logs, Tensor queries,
                  const CacheRows& keys, const CacheRows& values, const HeadShape& heads,
                  std::int64_t longest)
      : kernels(float_kernels),
        out(to),
        log_sums(logs),
        q(queries),
        k(keys),
        v(values),
        shape(heads),
        row_floats((longest + 63) / 64 * 64) {}

  std::int64_t head_floats() const { return row_floats + (shape.head_dim + 64) / 64 * 64; }

  // `memory` has head_floats() for each head of the run.
  void attend(const HeadRun& run, float* memory) const {
    const std::int64_t row = run.query.row(), first_key = run.query.span->cache_row;
    const std::int64_t dim = shape.head_dim, visible = run.query.visible();
    const auto scores = [&](std::int64_t h) { return memory + (h - run.first) * head_floats(); };
    const auto sums = [&](std::int64_t h) { return scores(h) + row_floats; };
    run.for_each_block(k, [&](std::int64_t j, std::int64_t count) {
      for (std::int64_t h = run.first; h < run.end; ++h) {
        scores_with(kernels, scores(h) + j, row_of(q, row, h * dim),
                    {k, first_key + j, run.kv_head(h), dim}, count);
      }
    });
    for (std::int64_t h = run.first; h < run.end; ++h) {
      sums(h)[dim] = exponentials(run.query, h, scores(h), visible);
      std::fill_n(sums(h), dim, 0.0f);
    }
    run.for_each_block(v, [&](std::int64_t j, std::int64_t count) {
      for (std::int64_t h = run.first; h < run.end; ++h) {
        add_weighted_with(kernels, sums(h), scores(h) + j, {v, first_key + j, run.kv_head(h), dim},
                          count);
      }
    });
    for (std::int64_t h = run.first; h < run.end; ++h) {
      kernels.scale(row_of(out, row, h * dim), sums(h), sums(h)[dim], dim);
    }
  }

  // Scores become exponentials; returns the factor that makes them weights.
  float exponentials(const QueryRow& query, std::int64_t h, float* row,
                     std::int64_t visible) const {
    const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
    const float largest = scale * kernels.largest(row, visible);
    const float denominator = kernels.exponentials({row, false}, row, scale, largest, visible);
    if (log_sums) {
      const SequenceSpan& span = *query.span;
      const std::int64_t first = span.first_row * shape.heads + h * span.count;
      log_sums.as<float>()[first + query.index] = largest + std::log(denominator);
    }
    return 1.0f / denominator;
  }
};

}  // namespace

void CpuBackend::attention_of_few(Tensor out, Tensor log_sums, Tensor q, const CacheRows& k,
                                  const CacheRows& v, std::span<const SequenceSpan> spans,
                                  const HeadShape& shape) {
  const std::vector<QueryRow> rows = query_rows(spans);
  std::int64_t longest = 0;
  for (const SequenceSpan& span : spans) longest = std::max(longest, span.key_length());
  const CachedAttention attention(float_kernels_, out, log_sums, q, k, v, shape, longest);
  const std::int64_t items = static_cast<std::int64_t>(rows.size()) * shape.heads;
  const std::int64_t grain = row_grain(2 * longest * shape.head_dim);
  const std::int64_t parts = parallel_parts(threads_, items, grain);
  // A run has the heads of one query at most, and no more than a part has items.
  const std::int64_t run_heads = std::min(shape.heads, (items + parts - 1) / parts);
  const Tensor scratch = workspace_.tensor(
      Workspace::Slot::kAttention, {parts, run_heads * attention.head_floats()}, DType::kF32);
  parallel_for(threads_, items, grain, [&](std::int64_t begin, std::int64_t end, int part) {
    for (std::int64_t item = begin; item < end;) {
      const std::int64_t query = item / shape.heads, first = item % shape.heads;
      const std::int64_t count = std::min(shape.heads - first, end - item);
      attention.attend({rows[static_cast<std::size_t>(query)], first, first + count, shape},
                       scratch.row<float>(part));
      item += count;
    }
  });
}

void CpuBackend::cache_append(const CacheRows& cache, Tensor x, const SequenceSpans& spans) {
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
                                  const SequenceSpans& spans, const HeadShape& shape) {
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
