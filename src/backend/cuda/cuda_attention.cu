// CudaBackend: attention, its gradient, and attention over kept keys and values.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cuda/attention_backward_kernels.cuh"
#include "backend/cuda/span_launch.h"
#include "backend/cuda/split_attention_kernels.cuh"
#include "backend/cuda/tensor_attention_backward_kernels.cuh"

namespace quest {
namespace {

using cuda::Bf16Rows, cuda::KeyRows, cuda::TileOrder;
using cuda::list_of, cuda::longest, cuda::most_keys, cuda::narrow, cuda::plain_order, cuda::rows_of;
using cuda::rows_begin_at, cuda::with_blocks;

void check_heads(std::int64_t head_dim) {
  if (head_dim > cuda::kMostHeadDim) {
    fail("CUDA: heads of {} values; at most {} are supported", head_dim, cuda::kMostHeadDim);
  }
}

float score_scale(std::int64_t head_dim) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
}

KeyRows keys_of(const CacheRows& cache, std::int64_t head_dim) {
  if (!cache.scales) return {rows_of(cache.values), nullptr, nullptr, 0, 0, head_dim};
  return {{},
          cuda::data_of<std::int8_t>(cache.values),
          cuda::data_of<float>(cache.scales),
          cache.values.row_stride,
          cache.scales.row_stride,
          head_dim};
}

/// Whether heads of these rows can be copied in pieces of 16 bytes.
bool in_pieces(std::int64_t head_dim, std::initializer_list<Tensor> tensors) {
  return head_dim % 8 == 0 && std::all_of(tensors.begin(), tensors.end(), [](const Tensor& x) {
           return x.dtype == DType::kBF16 && x.row_stride % 8 == 0 &&
                  reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0;
         });
}

/// The same of a cache.
bool in_pieces(std::int64_t head_dim, const CacheRows& cache) {
  const Tensor& x = cache.values;
  if (!cache.scales) return in_pieces(head_dim, {x});
  return head_dim % 16 == 0 && x.row_stride % 16 == 0 &&
         reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0;
}

Bf16Rows bf16_rows(const Tensor& x) {
  return {static_cast<const std::uint16_t*>(rows_of(x).data), x.row_stride};
}

/// Lines of heads that each read `keys` keys and values in bf16, which `sharing` heads share.
TileOrder order_in_cache(std::int64_t lines, unsigned tiles, std::int64_t keys,
                         std::int64_t head_dim, std::int64_t sharing) {
  constexpr std::int64_t kCacheBytes = std::int64_t{24} << 20;  // about half of an H100's
  const std::int64_t bytes = std::max<std::int64_t>(1, 4 * keys * head_dim);
  const std::int64_t section = std::max<std::int64_t>(1, kCacheBytes / bytes) * sharing;
  return {narrow(lines), tiles, narrow(std::min(lines, section))};
}

void attend_any_rows(Launch how, cuda::Attention task, std::int64_t spans,
                     std::int64_t longest_span) {
  task.order = plain_order(spans * task.shape.heads, blocks_of(longest_span, cuda::kQueryTile));
  how.grid = dim3(task.order.lines * task.order.tiles * task.most_parts);
  how.threads = cuda::kAttentionThreads;
  const auto run = [&](auto kernel, std::size_t bytes) {
    how.shared_bytes = static_cast<int>(bytes);
    launch(how, kernel, task);
  };
  if (task.shape.head_dim <= 128) {
    run(cuda::attention_kernel<128>, sizeof(cuda::AttentionMemory<128>));
  } else {
    run(cuda::attention_kernel<256>, sizeof(cuda::AttentionMemory<256>));
  }
}

template <int kWidth, int kRowTiles>
void attend_tiles(const Launch& how, cuda::TensorAttention& task, std::int64_t spans,
                  std::int64_t longest_span, std::int64_t keys) {
  using Sizes = cuda::TensorAttentionSizes<kWidth, kRowTiles>;
  const HeadShape& shape = task.shape;
  task.order = order_in_cache(spans * shape.heads, blocks_of(longest_span, Sizes::kQueries), keys,
                              shape.head_dim, shape.heads / shape.kv_heads);
  launch(with_blocks(how, task.order, cuda::kTileThreads, Sizes::kSharedBytes),
         cuda::tensor_attention_kernel<kWidth, kRowTiles>, task);
}

/// Tiles of 128 queries read keys half as often, those of 64 fill the device sooner. A query's bits
/// are the same.
void attend_bf16_rows(const Launch& how, cuda::TensorAttention task, std::int64_t spans,
                      std::int64_t longest_span, std::int64_t keys) {
  const std::int64_t dim = task.shape.head_dim;
  const bool large = spans * task.shape.heads * blocks_of(longest_span, 128) >= cuda::kEnoughBlocks;
  const auto run = dim > 128   ? attend_tiles<256, 1>
                   : dim <= 64 ? (large ? attend_tiles<64, 2> : attend_tiles<64, 1>)
                               : (large ? attend_tiles<128, 2> : attend_tiles<128, 1>);
  run(how, task, spans, longest_span, keys);
}

template <int kWidth, bool kCodes>
void attend_parts(Launch how, const cuda::SplitAttention& task) {
  using Sizes = cuda::SplitSizes<kWidth, kCodes>;
  how.threads = narrow(Sizes::kThreads);
  how.shared_bytes = Sizes::kSharedBytes;
  launch(how, cuda::split_attention_kernel<kWidth, kCodes>, task);
}

/// Kept rows in pieces of 16 bytes; `values` are bf16 or codes, which are named by their pairs.
cuda::CacheValues cache_values(const CacheRows& cache) {
  if (!cache.scales) return {bf16_rows(cache.values), nullptr, 0};
  return {{reinterpret_cast<const std::uint16_t*>(cuda::data_of<std::int8_t>(cache.values)),
           cache.values.row_stride / 2},
          cuda::data_of<float>(cache.scales),
          cache.scales.row_stride};
}

/// Whether these queries can be copied, over this cache, by the kernels on tensor cores.
bool suits_split(const Tensor& q, const CacheRows& k, const CacheRows& v, const HeadShape& shape) {
  const std::int64_t dim = shape.head_dim;
  return in_pieces(dim, {q}) && in_pieces(dim, k) && in_pieces(dim, v);
}

/// Of spans of few queries, whose keys and values are kept.
cuda::SplitAttention split_attention(const Tensor& out, const Tensor& q, const CacheRows& k,
                                     const CacheRows& v, const SequenceSpans& spans,
                                     const HeadShape& shape) {
  return {rows_of(out),
          bf16_rows(q),
          cache_values(k),
          cache_values(v),
          cuda::NewRows(),
          {},
          list_of(spans),
          shape,
          score_scale(shape.head_dim),
          {1, cuda::kFewQueries},
          1,
          1};
}

/// Into how many parts the keys of those spans of a list that `taken` has are cut, at most: blocks
/// that a span turns out not to need end at once.
struct CutKeys {
  cuda::PartSums parts{};
  std::int64_t most_parts = 1, most_rows = 0;  ///< rows: queries times heads of a key head
  std::int64_t joined_queries = 0;             ///< of a span of several parts, at most

  CutKeys(cuda::Workspace& workspace, const SequenceSpans& spans, const HeadShape& shape,
          const cuda::CountRange& taken) {
    parts.limits = cuda::PartLimits(shape);
    const std::int64_t keys = std::max(spans.capacity, most_keys(spans));
    for (const SequenceSpan& span : spans) {
      if (!taken.has(span)) continue;
      const std::int64_t span_parts = cuda::most_parts(span.count, keys, shape);
      most_rows = std::max(most_rows, span.count * (shape.heads / shape.kv_heads));
      most_parts = std::max(most_parts, span_parts);
      if (span_parts == 1) continue;
      parts.slots = std::max(parts.slots, span.count * span_parts);
      joined_queries = std::max(joined_queries, span.count);
    }
    const std::int64_t states = std::ssize(spans) * parts.slots * shape.heads;
    static_assert(sizeof(cuda::PartState) == 2 * sizeof(float));
    parts.states = workspace.take<cuda::PartState>(cuda::Workspace::Slot::kSums,
                                                   states + (states * shape.head_dim + 1) / 2);
    parts.sums = reinterpret_cast<float*>(parts.states + states);
  }
};

void join_parts(Launch how, const CutKeys& cut, const cuda::PartJoin& task, std::int64_t spans) {
  how.name = "join_parts";
  how.grid = dim3(narrow(cut.joined_queries * task.shape.heads * spans));
  how.threads = cuda::kJoinThreads;
  launch(how, cuda::join_parts_kernel, task, narrow(cut.joined_queries));
}

/// Attention of the spans that `task` takes, if any.
void attend_spans(Launch how, cuda::Workspace& workspace, cuda::SplitAttention task,
                  const SequenceSpans& spans) {
  const HeadShape& shape = task.shape;
  const CutKeys cut(workspace, spans, shape, task.taken);
  task.parts = cut.parts;
  task.most_parts = narrow(cut.most_parts);
  task.row_tiles = blocks_of(cut.most_rows, cuda::kSplitRows);
  how.grid = dim3(narrow(cut.most_parts * task.row_tiles * shape.kv_heads * std::ssize(spans)));
  const bool codes = task.k.scales != nullptr;
  const auto of_width = [&](auto with_codes, auto without) { return codes ? with_codes : without; };
  const auto run = shape.head_dim <= 64 ? of_width(attend_parts<64, true>, attend_parts<64, false>)
                   : shape.head_dim <= 128
                       ? of_width(attend_parts<128, true>, attend_parts<128, false>)
                       : of_width(attend_parts<256, true>, attend_parts<256, false>);
  run(how, task);
  join_parts(how, cut, {task.out, task.parts, task.spans, shape, task.taken}, std::ssize(spans));
}

template <int kWidth>
void make_tensor_gradient(const Launch& how, cuda::TensorGradient& task, std::int64_t batch) {
  const HeadShape& shape = task.shape;
  const std::int64_t group = shape.heads / shape.kv_heads;
  using OfQueries = cuda::TensorDQSizes<kWidth>;
  task.order = order_in_cache(batch * shape.heads, blocks_of(task.length, OfQueries::kQueries),
                              task.length, shape.head_dim, group);
  launch(with_blocks(how, task.order, cuda::kTileThreads, OfQueries::kSharedBytes),
         cuda::tensor_d_q_kernel<kWidth>, task);
  using OfKeys = cuda::TensorDKvSizes<kWidth>;
  task.order = order_in_cache(batch * shape.kv_heads, blocks_of(task.length, OfKeys::kKeys),
                              group * task.length, shape.head_dim, 1);
  launch(with_blocks(how, task.order, cuda::kTileThreads, OfKeys::kSharedBytes),
         cuda::tensor_d_kv_kernel<kWidth>, task);
}

template <int kDim>
void make_gradient(const Launch& how, cuda::AttentionGradient& task, std::int64_t batch) {
  const int bytes = static_cast<int>(sizeof(cuda::GradientMemory<kDim>));
  const unsigned tiles = blocks_of(task.length, cuda::kPairTile);
  task.order = plain_order(batch * task.shape.heads, tiles);
  launch(with_blocks(how, task.order, cuda::kAttentionThreads, bytes),
         cuda::attention_d_q_kernel<kDim>, task);
  task.order = plain_order(batch * task.shape.kv_heads, tiles);
  launch(with_blocks(how, task.order, cuda::kAttentionThreads, bytes),
         cuda::attention_d_kv_kernel<kDim>, task);
}

}  // namespace

void CudaBackend::attention(Tensor out, Tensor log_sums, Tensor q, Tensor k, Tensor v,
                            const AttentionShape& shape) {
  check_heads(shape.head_dim);
  const Launch how = on("attention", dim3(), 0);
  const cuda::Spans spans{nullptr,
                          {0, shape.query_length, shape.key_length - shape.query_length, 0},
                          shape.query_length,
                          shape.key_capacity};
  const HeadShape heads{shape.heads, shape.kv_heads, shape.head_dim};
  const float scale = score_scale(shape.head_dim);
  float* const sums = cuda::data_of<float>(log_sums);
  if (in_pieces(shape.head_dim, {q, k, v})) {
    attend_bf16_rows(how,
                     {rows_of(out), bf16_rows(q), bf16_rows(k), bf16_rows(v), sums, spans, heads,
                      scale, 0, TileOrder()},
                     shape.batch, shape.query_length, shape.key_length);
    return;
  }
  attend_any_rows(
      how,
      {rows_of(out), rows_of(q), keys_of({k, {}}, shape.head_dim), keys_of({v, {}}, shape.head_dim),
       sums, spans, heads, scale, TileOrder(), cuda::PartSums(), 1},
      shape.batch, shape.query_length);
}

void CudaBackend::attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q,
                                     Tensor k, Tensor v, Tensor out, Tensor log_sums,
                                     const AttentionShape& shape) {
  check_heads(shape.head_dim);
  const std::int64_t length = shape.query_length, rows = shape.batch * length;
  const HeadShape heads{shape.heads, shape.kv_heads, shape.head_dim};
  const float scale = score_scale(shape.head_dim);
  const auto* const sums = cuda::data_of<float>(log_sums);
  if (shape.head_dim <= 128 && in_pieces(shape.head_dim, {d_out, q, k, v, out})) {
    const std::int64_t line_length =
        blocks_of(length, cuda::kLineMultiple) * std::int64_t{cuda::kLineMultiple};
    const std::int64_t lines = shape.batch * shape.heads * line_length;
    auto* const made = workspace_.take<cuda::QueryLine>(cuda::Workspace::Slot::kSums, lines);
    constexpr int kLinesABlock = cuda::kTileThreads / cuda::kLineThreads;
    launch(
        on("attention_query_lines", dim3(blocks_of(lines, kLinesABlock)), cuda::kTileThreads),
        cuda::query_lines_kernel,
        cuda::QueryLines{made, sums, bf16_rows(d_out), bf16_rows(out), length, line_length, heads});
    cuda::TensorGradient task{rows_of(d_q), rows_of(d_k), rows_of(d_v), bf16_rows(d_out),
                              bf16_rows(q), bf16_rows(k), bf16_rows(v), made,
                              length,       line_length,  heads,        scale,
                              TileOrder()};
    const auto run = shape.head_dim <= 64 ? make_tensor_gradient<64> : make_tensor_gradient<128>;
    run(on("attention_backward", dim3(), 0), task, shape.batch);
    return;
  }
  float* const corrections =
      workspace_.take<float>(cuda::Workspace::Slot::kSums, rows * shape.heads);
  for_each("attention_corrections", rows, shape.heads,
           cuda::Corrections{corrections, rows_of(d_out), rows_of(out), length, heads});
  cuda::AttentionGradient task{rows_of(d_q), rows_of(d_k), rows_of(d_v), rows_of(d_out), rows_of(q),
                               rows_of(k),   rows_of(v),   sums,         corrections,    length,
                               heads,        scale,        TileOrder()};
  const auto run = shape.head_dim <= 128 ? make_gradient<128> : make_gradient<256>;
  run(on("attention_backward", dim3(), 0), task, shape.batch);
}

void CudaBackend::cached_attention(Tensor out, Tensor q, const CacheRows& k, const CacheRows& v,
                                   const SequenceSpans& spans, const HeadShape& shape) {
  if (spans.empty()) return;
  check_heads(shape.head_dim);
  const Launch how = on("cached_attention", dim3(), 0);
  const cuda::Spans list = list_of(spans);
  const float scale = score_scale(shape.head_dim);
  if (suits_split(q, k, v, shape)) {
    // Few queries and, over codes, many. They go apart, so that neither makes the other's grid
    // large.
    constexpr std::int64_t kMany = cuda::kFewQueries + 1;
    cuda::SplitAttention task = split_attention(out, q, k, v, spans, shape);
    attend_spans(how, workspace_, task, spans);
    if (longest(spans) <= cuda::kFewQueries) return;
    if (k.scales) {
      task.taken = {kMany, std::numeric_limits<std::int64_t>::max()};
      attend_spans(how, workspace_, task, spans);
      return;
    }
    attend_bf16_rows(how,
                     {rows_of(out), bf16_rows(q), bf16_rows(k.values), bf16_rows(v.values), nullptr,
                      list, shape, scale, cuda::kFewQueries, TileOrder()},
                     std::ssize(spans), longest(spans), most_keys(spans));
    return;
  }
  const cuda::CountRange all{1, std::numeric_limits<std::int64_t>::max()};
  const CutKeys cut(workspace_, spans, shape, all);
  attend_any_rows(how,
                  {rows_of(out), rows_of(q), keys_of(k, shape.head_dim), keys_of(v, shape.head_dim),
                   nullptr, list, shape, scale, TileOrder(), cut.parts, narrow(cut.most_parts)},
                  std::ssize(spans), longest(spans));
  join_parts(how, cut, {rows_of(out), cut.parts, list, shape, all}, std::ssize(spans));
}

void CudaBackend::cached_rope_attention(Tensor out, Tensor qkv, const Rotary& rotary,
                                        const CacheRows& k, const CacheRows& v,
                                        const SequenceSpans& spans, const HeadShape& shape) {
  if (spans.empty()) return;
  check_heads(shape.head_dim);
  const Tensor q = qkv.columns(0, shape.heads * shape.head_dim);
  const auto has_one = [](const SequenceSpan& span) { return span.count == 1; };
  // A block has all queries of its key head: one puts the new row into the cache.
  const bool one_tile = shape.heads <= shape.kv_heads * cuda::kSplitRows;
  if (!one_tile || !std::all_of(spans.begin(), spans.end(), has_one) ||
      !suits_split(q, k, v, shape) || !rows_begin_at(rotary.cos, 16) ||
      !rows_begin_at(rotary.sin, 16)) {
    Backend::cached_rope_attention(out, qkv, rotary, k, v, spans, shape);
    return;
  }
  cuda::SplitAttention task = split_attention(out, q, k, v, spans, shape);
  task.fresh = {cuda::data_of<std::uint16_t>(qkv),
                {cuda::data_of<float>(rotary.cos), cuda::data_of<float>(rotary.sin)},
                rotary.layout == RopeLayout::kInterleaved,
                static_cast<std::uint16_t*>(k.values.data),
                static_cast<std::uint16_t*>(v.values.data),
                cuda::data_of<float>(k.scales),
                cuda::data_of<float>(v.scales)};
  attend_spans(on("cached_rope_attention", dim3(), 0), workspace_, task, spans);
}

}  // namespace quest
