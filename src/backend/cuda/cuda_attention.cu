// CudaBackend: attention, its gradient, and attention over kept keys and values.
#include <algorithm>
#include <cmath>

#include "backend/cuda/attention_backward_kernels.cuh"
#include "backend/cuda/cuda_backend.h"

namespace quest {
namespace {

using cuda::KeyRows;
using cuda::rows_of;

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

unsigned narrow(std::int64_t count) { return static_cast<unsigned>(count); }

std::int64_t longest(std::span<const SequenceSpan> spans) {
  std::int64_t count = 0;
  for (const SequenceSpan& span : spans) count = std::max(count, span.count);
  return count;
}

}  // namespace

void CudaBackend::attention(Tensor out, Tensor log_sums, Tensor q, Tensor k, Tensor v,
                            const AttentionShape& shape) {
  check_heads(shape.head_dim);
  const cuda::Attention task{rows_of(out),
                             rows_of(q),
                             keys_of({k, {}}, shape.head_dim),
                             keys_of({v, {}}, shape.head_dim),
                             cuda::data_of<float>(log_sums),
                             {nullptr,
                              {0, shape.query_length, shape.key_length - shape.query_length, 0},
                              shape.query_length,
                              shape.key_capacity},
                             {shape.heads, shape.kv_heads, shape.head_dim},
                             score_scale(shape.head_dim)};
  const dim3 grid(blocks_of(shape.query_length, cuda::kQueryTile), narrow(shape.heads),
                  narrow(shape.batch));
  launch(on("attention", grid, cuda::kAttentionThreads), cuda::attention_kernel, task);
}

void CudaBackend::attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q,
                                     Tensor k, Tensor v, Tensor out, Tensor log_sums,
                                     const AttentionShape& shape) {
  check_heads(shape.head_dim);
  const std::int64_t length = shape.query_length, rows = shape.batch * length;
  const HeadShape heads{shape.heads, shape.kv_heads, shape.head_dim};
  float* const corrections =
      workspace_.take<float>(cuda::Workspace::Slot::kSums, rows * shape.heads);
  for_each("attention_corrections", rows, shape.heads,
           cuda::Corrections{corrections, rows_of(d_out), rows_of(out), length, heads});
  const cuda::AttentionGradient task{
      rows_of(d_q), rows_of(d_k), rows_of(d_v), rows_of(d_out),
      rows_of(q),   rows_of(k),   rows_of(v),   cuda::data_of<float>(log_sums),
      corrections,  length,       heads,        score_scale(shape.head_dim)};
  const unsigned tiles = blocks_of(length, cuda::kPairTile), batch = narrow(shape.batch);
  launch(on("attention_d_q", dim3(tiles, narrow(shape.heads), batch), cuda::kAttentionThreads),
         cuda::attention_d_q_kernel, task);
  launch(on("attention_d_kv", dim3(tiles, narrow(shape.kv_heads), batch), cuda::kAttentionThreads),
         cuda::attention_d_kv_kernel, task);
}

const SequenceSpan* CudaBackend::on_device(std::span<const SequenceSpan> spans) {
  auto* const list = workspace_.take<SequenceSpan>(cuda::Workspace::Slot::kSpans,
                                                   static_cast<std::int64_t>(spans.size()));
  const auto same = [](const SequenceSpan& a, const SequenceSpan& b) {
    return a.first_row == b.first_row && a.count == b.count && a.position == b.position &&
           a.cache_row == b.cache_row;
  };
  // All layers of a pass ask with the same spans.
  if (!std::equal(spans.begin(), spans.end(), sent_spans_.begin(), sent_spans_.end(), same)) {
    check_cuda(
        cudaMemcpyAsync(list, spans.data(), spans.size_bytes(), cudaMemcpyHostToDevice, stream_),
        "cudaMemcpyAsync", "{} spans", spans.size());
    synchronize();
    sent_spans_.assign(spans.begin(), spans.end());
  }
  return list;
}

void CudaBackend::cache_append(const CacheRows& cache, Tensor x,
                               std::span<const SequenceSpan> spans) {
  if (spans.empty()) return;
  // Rows of floats are copied in one piece; codes have a scale a head.
  const std::int64_t heads = cache.scales ? cache.scales.cols() : 1;
  const cuda::CacheAppend task{
      keys_of(cache, cache.values.cols() / heads), rows_of(x), {on_device(spans), {}, 0, 0}};
  const dim3 grid(narrow(longest(spans)), narrow(heads), narrow(std::ssize(spans)));
  launch(on("cache_append", grid, cuda::kWarp), cuda::cache_append_kernel, task);
}

void CudaBackend::cached_attention(Tensor out, Tensor q, const CacheRows& k, const CacheRows& v,
                                   std::span<const SequenceSpan> spans, const HeadShape& shape) {
  if (spans.empty()) return;
  check_heads(shape.head_dim);
  const cuda::Attention task{rows_of(out),
                             rows_of(q),
                             keys_of(k, shape.head_dim),
                             keys_of(v, shape.head_dim),
                             nullptr,
                             {on_device(spans), {}, 0, 0},
                             shape,
                             score_scale(shape.head_dim)};
  const dim3 grid(blocks_of(longest(spans), cuda::kQueryTile), narrow(shape.heads),
                  narrow(std::ssize(spans)));
  launch(on("cached_attention", grid, cuda::kAttentionThreads), cuda::attention_kernel, task);
}

}  // namespace quest
