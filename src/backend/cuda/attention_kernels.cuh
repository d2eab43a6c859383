// Kernels of causal attention of any rows over blocks of 32 keys: 16 queries of one head a block of
// threads, eight threads a query. All sums are f32; the softmax is rescaled as larger scores come.
#pragma once

#include "backend/cuda/key_parts.cuh"
#include "backend/cuda/tensor_core.cuh"

namespace quest::cuda {

inline constexpr int kMostHeadDim = 256;
inline constexpr int kQueryTile = 16;
inline constexpr int kKeyTile = 32;
inline constexpr int kRowThreads = 8;  // of one query
inline constexpr int kAttentionThreads = kQueryTile * kRowThreads;

/// Keys or values: floats, or codes with a scale for each row and head.
struct KeyRows {
  FloatRows floats;
  const std::int8_t* codes;  ///< null: floats
  const float* scales;
  std::int64_t code_stride, scale_stride, head_dim;
  __device__ float load(std::int64_t row, std::int64_t head, std::int64_t d) const {
    if (codes == nullptr) return floats.load(row, head * head_dim + d);
    return static_cast<float>(codes[row * code_stride + head * head_dim + d]) *
           scales[row * scale_stride + head];
  }
};

struct Attention {
  FloatRows out, q;
  KeyRows k, v;
  float* log_sums;  ///< [span, H, count of the span], for equal spans; null: none
  Spans spans;
  HeadShape shape;
  float scale;      ///< 1 / sqrt(D)
  TileOrder order;  ///< line: span * H + head
  PartSums parts;   ///< states null: keys are not cut
  unsigned most_parts;
};

/// Joins the eight threads of a row.
template <typename Op>
__device__ float row_join(float value, Op op) {
  for (int lanes = 1; lanes < kRowThreads; lanes *= 2) {
    value = op(value, __shfl_xor_sync(kAllLanes, value, lanes));
  }
  return value;
}

/// tile[i][d] = rows first + i, i < count, of a head; zeros after them.
template <int kRows, int kPitch, typename Load>
__device__ void load_head_tile(float (&tile)[kRows][kPitch], std::int64_t count,
                               std::int64_t head_dim, Load load) {
  for (std::int64_t t = threadIdx.x; t < kRows * head_dim; t += blockDim.x) {
    const std::int64_t i = t / head_dim, d = t % head_dim;
    tile[i][d] = i < count ? load(i, d) : 0.0f;
  }
}

__device__ inline float dot(const float* a, const float* b, std::int64_t count) {
  float sum = 0.0f;
  for (std::int64_t d = 0; d < count; ++d) sum = fmaf(a[d], b[d], sum);
  return sum;
}

/// The softmax of a query over the keys that have passed; its eight threads agree on `largest`, and
/// each keeps its part of the denominator.
struct RunningSoftmax {
  float largest = -HUGE_VALF, denominator = 0.0f;

  /// Takes this thread's scores of a tile and leaves their weights at weights[part + 8 i]. Returns
  /// the factor by which sums over earlier tiles shrink.
  __device__ float take(const float (&scores)[kKeyTile / kRowThreads], float* weights, int part) {
    float most = largest;
    for (const float score : scores) most = Larger()(most, score);
    most = row_join(most, Larger());
    const float shrink = largest == -HUGE_VALF ? 0.0f : expf(largest - most);
    largest = most;
    denominator *= shrink;
    for (int i = 0; i < kKeyTile / kRowThreads; ++i) {
      const float weight = scores[i] == -HUGE_VALF ? 0.0f : expf(scores[i] - largest);
      weights[part + i * kRowThreads] = weight;
      denominator += weight;
    }
    return shrink;
  }
};

/// Shared memory of the kernel for heads of up to kDim values.
template <int kDim>
struct AttentionMemory {
  float queries[kQueryTile][kDim + 1], keys[kKeyTile][kDim + 1], values[kKeyTile][kDim + 1];
  float weights[kQueryTile][kKeyTile + 1];
};

template <int kDim>
__global__ void __launch_bounds__(kAttentionThreads) attention_kernel(Attention a) {
  follow_last_kernel();
  auto& [queries, keys, values, weights] =
      *reinterpret_cast<AttentionMemory<kDim>*>(dynamic_shared());
  const TileOrder::Place place = a.order.at(blockIdx.x / a.most_parts);
  const std::int64_t head = place.line % a.shape.heads, span_index = place.line / a.shape.heads;
  const SequenceSpan span = a.spans.at(span_index);
  const std::int64_t first =
      ((span.count + kQueryTile - 1) / kQueryTile - 1 - place.rank) * kQueryTile;
  if (first < 0) return;
  const std::int64_t kv_head = head / (a.shape.heads / a.shape.kv_heads);
  const std::int64_t dim = a.shape.head_dim;
  const std::int64_t count = span.count - first < kQueryTile ? span.count - first : kQueryTile;
  const int row = static_cast<int>(threadIdx.x) / kRowThreads;
  const int lane = static_cast<int>(threadIdx.x) % kRowThreads;
  const std::int64_t visible = row < count ? span.position + first + row + 1 : 0;
  load_head_tile(queries, count, dim, [&](std::int64_t i, std::int64_t d) {
    return a.q.load(span.first_row + first + i, head * dim + d);
  });

  const std::int64_t last = span.position + first + count;  // keys that any of the queries sees
  std::int64_t begin = 0, end = last, parts = 1;
  const unsigned part = blockIdx.x % a.most_parts;
  if (a.parts.states != nullptr) {
    const KeySplit split(span, a.parts.limits);
    parts = split.parts;
    begin = part * split.keys;
    if (begin + split.keys < end) end = begin + split.keys;
  }
  if (part >= parts) return;
  RunningSoftmax softmax;
  float sums[kDim / kRowThreads] = {};
  for (std::int64_t key = begin; key < end; key += kKeyTile) {
    __syncthreads();
    const std::int64_t left = end - key, from = span.cache_row + key;
    load_head_tile(keys, left, dim,
                   [&](std::int64_t i, std::int64_t d) { return a.k.load(from + i, kv_head, d); });
    load_head_tile(values, left, dim,
                   [&](std::int64_t i, std::int64_t d) { return a.v.load(from + i, kv_head, d); });
    __syncthreads();
    float scores[kKeyTile / kRowThreads];
    for (int i = 0; i < kKeyTile / kRowThreads; ++i) {
      const int j = lane + i * kRowThreads;
      scores[i] = key + j < visible ? a.scale * dot(queries[row], keys[j], dim) : -HUGE_VALF;
    }
    const float shrink = softmax.take(scores, weights[row], lane);
    __syncwarp();  // The threads of a row are in one warp.
    for (int i = 0; lane + i * kRowThreads < dim; ++i) {
      float sum = sums[i] * shrink;
      for (int j = 0; j < kKeyTile; ++j) {
        sum = fmaf(weights[row][j], values[j][lane + i * kRowThreads], sum);
      }
      sums[i] = sum;
    }
  }
  const float denominator = row_join(softmax.denominator, Plus());
  if (row >= count) return;
  if (parts > 1) {
    const std::int64_t at =
        a.parts.slot(span_index, first + row, parts, part) * a.shape.heads + head;
    for (int i = 0; lane + i * kRowThreads < dim; ++i) {
      a.parts.sums[at * dim + lane + i * kRowThreads] = sums[i];
    }
    if (lane == 0) a.parts.states[at] = {softmax.largest * kLog2E, denominator};
    return;
  }
  for (int i = 0; lane + i * kRowThreads < dim; ++i) {
    a.out.store(span.first_row + first + row, head * dim + lane + i * kRowThreads,
                sums[i] / denominator);
  }
  if (a.log_sums != nullptr && lane == 0) {
    a.log_sums[place.line * span.count + first + row] = softmax.largest + logf(denominator);
  }
}

}  // namespace quest::cuda
