// Kernels of attention's gradient for any rows: one makes d_q, one d_k and d_v, each summing in a
// fixed order.
#pragma once

#include "backend/cuda/attention_kernels.cuh"

namespace quest::cuda {

/// Rows of both tiles: the queries or keys that a block of threads owns, and those that pass by.
inline constexpr int kPairTile = 16;

struct AttentionGradient {
  FloatRows d_q, d_k, d_v, d_out, q, k, v;
  const float* log_sums;     ///< [B, H, T]
  const float* corrections;  ///< [B, H, T]: d_out . out
  std::int64_t length;       ///< T
  HeadShape shape;
  float scale;
  TileOrder order;  ///< line: sequence * H (or Hkv) + head
};

/// corrections = d_out . out of each query and head.
struct Corrections {
  float* corrections;
  FloatRows d_out, out;
  std::int64_t length;
  HeadShape shape;
  __device__ void operator()(std::int64_t row, std::int64_t head) const {
    float sum = 0.0f;
    for (std::int64_t d = head * shape.head_dim; d < (head + 1) * shape.head_dim; ++d) {
      sum = fmaf(d_out.load(row, d), out.load(row, d), sum);
    }
    const std::int64_t b = row / length, t = row % length;
    corrections[(b * shape.heads + head) * length + t] = sum;
  }
};

/// Weight of a key for a query, and the gradient of its score.
struct PairGradient {
  float weight, d_score;
};
__device__ inline PairGradient pair_gradient(const AttentionGradient& g, std::int64_t line,
                                             float query_key, float d_out_value) {
  const float weight = expf(g.scale * query_key - g.log_sums[line]);
  return {weight, g.scale * weight * (d_out_value - g.corrections[line])};
}

template <int kDim>
using PairTile = float[kPairTile][kDim + 1];

/// Shared memory of both kernels for heads of up to kDim values.
template <int kDim>
struct GradientMemory {
  PairTile<kDim> queries, d_outs, keys, values;
  float weights[kPairTile][kPairTile + 1], d_scores[kPairTile][kPairTile + 1];
};

template <int kPitch>
__device__ void load_pair_tile(float (&tile)[kPairTile][kPitch], const FloatRows& x,
                               std::int64_t row, std::int64_t count, std::int64_t column,
                               std::int64_t dim) {
  load_head_tile(tile, count, dim,
                 [&](std::int64_t i, std::int64_t d) { return x.load(row + i, column + d); });
}

/// A block has a tile of queries; the last come first.
template <int kDim>
__global__ void __launch_bounds__(kAttentionThreads) attention_d_q_kernel(AttentionGradient g) {
  follow_last_kernel();
  auto& [queries, d_outs, keys, values, weights, d_scores] =
      *reinterpret_cast<GradientMemory<kDim>*>(dynamic_shared());
  const TileOrder::Place place = g.order.at(blockIdx.x);
  const std::int64_t first = std::int64_t{g.order.tiles - 1 - place.rank} * kPairTile;
  const auto heads = static_cast<unsigned>(g.shape.heads);
  const unsigned head = place.line % heads;
  const std::int64_t start = place.line / heads * g.length;
  const unsigned kv_head = head / (heads / static_cast<unsigned>(g.shape.kv_heads));
  const std::int64_t dim = g.shape.head_dim, count = g.length - first;
  const int row = static_cast<int>(threadIdx.x) / kRowThreads;
  const int part = static_cast<int>(threadIdx.x) % kRowThreads;
  const std::int64_t query = first + row;
  const std::int64_t line = place.line * g.length + query;
  load_pair_tile(queries, g.q, start + first, count, head * dim, dim);
  load_pair_tile(d_outs, g.d_out, start + first, count, head * dim, dim);

  float sums[kDim / kRowThreads] = {};
  for (std::int64_t key = 0; key <= first; key += kPairTile) {
    __syncthreads();
    load_pair_tile(keys, g.k, start + key, g.length - key, kv_head * dim, dim);
    load_pair_tile(values, g.v, start + key, g.length - key, kv_head * dim, dim);
    __syncthreads();
    for (int j = part; j < kPairTile; j += kRowThreads) {
      float d_score = 0.0f;
      if (row < count && key + j <= query) {
        d_score = pair_gradient(g, line, dot(queries[row], keys[j], dim),
                                dot(d_outs[row], values[j], dim))
                      .d_score;
      }
      d_scores[row][j] = d_score;
    }
    __syncwarp();
    for (int i = 0; part + i * kRowThreads < dim; ++i) {
      for (int j = 0; j < kPairTile; ++j) {
        sums[i] = fmaf(d_scores[row][j], keys[j][part + i * kRowThreads], sums[i]);
      }
    }
  }
  if (row >= count) return;
  for (int i = 0; part + i * kRowThreads < dim; ++i) {
    g.d_q.store(start + query, head * dim + part + i * kRowThreads, sums[i]);
  }
}

/// A block has a tile of keys. Sums over the heads of a group, then over queries.
template <int kDim>
__global__ void __launch_bounds__(kAttentionThreads) attention_d_kv_kernel(AttentionGradient g) {
  follow_last_kernel();
  auto& [queries, d_outs, keys, values, weights, d_scores] =
      *reinterpret_cast<GradientMemory<kDim>*>(dynamic_shared());
  const TileOrder::Place place = g.order.at(blockIdx.x);
  const std::int64_t first = std::int64_t{place.rank} * kPairTile;
  const auto heads = static_cast<unsigned>(g.shape.heads);
  const auto kv_heads = static_cast<unsigned>(g.shape.kv_heads);
  const std::int64_t sequence = place.line / kv_heads, start = sequence * g.length;
  const unsigned kv_head = place.line % kv_heads, group = heads / kv_heads;
  const std::int64_t dim = g.shape.head_dim, count = g.length - first;
  const int row = static_cast<int>(threadIdx.x) / kRowThreads;
  const int part = static_cast<int>(threadIdx.x) % kRowThreads;
  const std::int64_t key = first + row;
  load_pair_tile(keys, g.k, start + first, count, kv_head * dim, dim);
  load_pair_tile(values, g.v, start + first, count, kv_head * dim, dim);

  float key_sums[kDim / kRowThreads] = {}, value_sums[kDim / kRowThreads] = {};
  for (unsigned head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (std::int64_t query = first; query < g.length; query += kPairTile) {
      __syncthreads();
      load_pair_tile(queries, g.q, start + query, g.length - query, head * dim, dim);
      load_pair_tile(d_outs, g.d_out, start + query, g.length - query, head * dim, dim);
      __syncthreads();
      for (int j = part; j < kPairTile; j += kRowThreads) {
        PairGradient pair{0.0f, 0.0f};
        if (query + j < g.length && key <= query + j) {
          pair = pair_gradient(g, (sequence * heads + head) * g.length + query + j,
                               dot(queries[j], keys[row], dim), dot(d_outs[j], values[row], dim));
        }
        weights[row][j] = pair.weight;
        d_scores[row][j] = pair.d_score;
      }
      __syncwarp();
      for (int i = 0; part + i * kRowThreads < dim; ++i) {
        for (int j = 0; j < kPairTile; ++j) {
          key_sums[i] = fmaf(d_scores[row][j], queries[j][part + i * kRowThreads], key_sums[i]);
          value_sums[i] = fmaf(weights[row][j], d_outs[j][part + i * kRowThreads], value_sums[i]);
        }
      }
    }
  }
  if (row >= count) return;
  for (int i = 0; part + i * kRowThreads < dim; ++i) {
    const std::int64_t column = kv_head * dim + part + i * kRowThreads;
    g.d_k.store(start + key, column, key_sums[i]);
    g.d_v.store(start + key, column, value_sums[i]);
  }
}

}  // namespace quest::cuda
