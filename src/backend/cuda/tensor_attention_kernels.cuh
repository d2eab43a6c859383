// Causal attention of bf16 rows on tensor cores, in the manner of FlashAttention-2 (Dao 2023): a
// block has a tile of queries of one head, its weights never leave registers, and the softmax is
// rescaled as larger scores come.
#pragma once

#include "backend/cuda/attention_tiles.cuh"

namespace quest::cuda {

struct TensorAttention {
  FloatRows out;
  Bf16Rows q, k, v;
  float* log_sums;  ///< [span, H, count of the span], for equal spans; null: none
  Spans spans;
  HeadShape shape;
  float scale;             ///< 1 / sqrt(D)
  std::int64_t too_short;  ///< spans of so many queries or fewer are left alone
  TileOrder order;         ///< line: span * H + head
};

/// Sizes of the kernel for heads of up to kWidth values; a warp has kRowTiles * 16 queries. What a
/// query computes depends on kWidth alone.
template <int kWidth, int kRowTiles>
struct TensorAttentionSizes {
  using Tile = Bf16Tile<kWidth>;
  static constexpr int kQueries = kTileWarps * 16 * kRowTiles;
  static constexpr int kKeys = kWidth <= 128 ? 64 : 32;
  static constexpr int kStep = kWidth == 64 ? 64 : 32;  ///< keys whose scores are there at once
  static constexpr int kStages = 2;
  static constexpr int kSharedBytes = Tile::bytes(kQueries) + kStages * 2 * Tile::bytes(kKeys);
};

/// The softmax of rows g and g + 8 of a warp's row tile over the keys that have passed. Weights are
/// relative to that of a score that is less than kSlack digits below the largest: so sums are
/// rescaled a few times only. The four lanes of a row agree on it; each keeps its part of the
/// denominator.
struct TileSoftmax {
  static constexpr float kSlack = 8.0f;
  float base[2] = {-HUGE_VALF, -HUGE_VALF};
  float denominator[2] = {0.0f, 0.0f};

  /// Scores become weights, 2^(factor score) over that of the base; `shrink` is by what sums over
  /// earlier keys have to be multiplied.
  template <int kColumns>
  __device__ void take(float (&scores)[kColumns][4], float factor, float (&shrink)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = scores[0][2 * half];
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        most = fmaxf(most, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      }
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
      const float growth = (most - base[half]) * factor;
      shrink[half] = growth > kSlack ? fast_exp2(-growth) : 1.0f;
      base[half] = growth > kSlack ? most : base[half];
      const float offset = base[half] == -HUGE_VALF ? 0.0f : -base[half] * factor;
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          scores[n][i] = fast_exp2(fmaf(scores[n][i], factor, offset));
          sum += scores[n][i];
        }
      }
      denominator[half] = fmaf(denominator[half], shrink[half], sum);
    }
  }

  /// Of a whole row, in each of its lanes.
  __device__ float whole_denominator(int half) const {
    const float sum = denominator[half] + __shfl_xor_sync(kAllLanes, denominator[half], 1);
    return sum + __shfl_xor_sync(kAllLanes, sum, 2);
  }
};

/// Scores of keys that a query does not see become -infinity: column c of row r where c >= visible
/// + r. All numbers are relative to the first row and the first column of the row tile.
template <int kColumns>
__device__ void hide_later_keys(float (&scores)[kColumns][4], int visible) {
  const int g = static_cast<int>(threadIdx.x % kWarp) / 4, t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int n = 0; n < kColumns; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (8 * n + 2 * t + i % 2 >= visible + g + i / 2 * 8) scores[n][i] = -HUGE_VALF;
    }
  }
}

/// Multiplies rows g and g + 8 of each row tile by their factors, if any of the warp's is not 1.
template <int kRowTiles, int kColumns>
__device__ void rescale(float (&sums)[kRowTiles][kColumns][4], const float (&by)[kRowTiles][2]) {
  bool any = false;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) any = any || by[m][0] != 1.0f || by[m][1] != 1.0f;
  if (__ballot_sync(kAllLanes, any ? 1 : 0) == 0) return;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[m][n][i] *= by[m][i / 2];
    }
  }
}

/// What a block computes.
template <int kQueries>
struct QueryTile {
  std::int64_t row, column;          ///< of q and out
  std::int64_t key_row, key_column;  ///< of position 0
  std::int64_t log_sum;              ///< index of the first query's
  int position;                      ///< of the first query
  int count;                         ///< of queries; 0 or less: the block has nothing to do

  __device__ explicit QueryTile(const TensorAttention& a) {
    const auto heads = static_cast<unsigned>(a.shape.heads);
    const TileOrder::Place place = a.order.at(blockIdx.x);
    const unsigned head = place.line % heads;
    const SequenceSpan span = a.spans.at(place.line / heads);
    const auto tile =
        static_cast<int>((span.count + kQueries - 1) / kQueries) - 1 - static_cast<int>(place.rank);
    const int first = tile * kQueries, left = static_cast<int>(span.count) - first;
    row = span.first_row + first;
    column = head * a.shape.head_dim;
    key_row = span.cache_row;
    key_column = head / (heads / static_cast<unsigned>(a.shape.kv_heads)) * a.shape.head_dim;
    log_sum = place.line * span.count + first;
    position = static_cast<int>(span.position) + first;
    count = tile < 0 || span.count <= a.too_short ? 0 : left < kQueries ? left : kQueries;
  }
};

template <int kWidth, int kRowTiles>
__global__ void __launch_bounds__(kTileThreads) tensor_attention_kernel(TensorAttention a) {
  follow_last_kernel();
  using Sizes = TensorAttentionSizes<kWidth, kRowTiles>;
  using Tile = typename Sizes::Tile;
  constexpr int kKeys = Sizes::kKeys, kStep = Sizes::kStep, kQueries = Sizes::kQueries;
  const QueryTile<kQueries> own(a);
  if (own.count <= 0) return;
  const int dim = static_cast<int>(a.shape.head_dim);
  const int warp_row = static_cast<int>(threadIdx.x / kWarp) * 16 * kRowTiles;

  const Tile queries{dynamic_shared()};
  const auto keys_of = [&](int tile) {
    return Tile{dynamic_shared() + Tile::bytes(kQueries) +
                tile % Sizes::kStages * 2 * Tile::bytes(kKeys)};
  };
  const auto values_of = [&](int tile) { return Tile{keys_of(tile).data + Tile::bytes(kKeys)}; };
  const int last = own.position + own.count;  // keys that a query sees
  TileCopy<kWidth, kKeys> key_copy(a.k.at(own.key_row, own.key_column), a.k.stride);
  TileCopy<kWidth, kKeys> value_copy(a.v.at(own.key_row, own.key_column), a.v.stride);
  const auto begin_copy = [&](int tile) {
    key_copy.begin(keys_of(tile), last - tile * kKeys, dim);
    value_copy.begin(values_of(tile), last - tile * kKeys, dim);
  };
  TileCopy<kWidth, kQueries>(a.q.at(own.row, own.column), a.q.stride)
      .begin(queries, own.count, dim);
  begin_copy(0);
  commit_copies();

  const float factor = a.scale * kLog2E;
  WarpSums<kRowTiles, kWidth> sums = {};
  TileSoftmax softmax[kRowTiles];
  // Keys that the warp's first query sees; none for a warp without queries.
  const int visible = warp_row < own.count ? own.position + warp_row + 1 : -16 * kRowTiles;
  const int tiles = (last + kKeys - 1) / kKeys;
  for (int tile = 0; tile < tiles; ++tile) {
    wait_for_copies<0>();
    __syncthreads();  // and the tile before has been read
    if (tile + 1 < tiles) begin_copy(tile + 1);
    commit_copies();
#pragma unroll 1
    for (int part = 0; part < kKeys; part += kStep) {
      const int key = tile * kKeys + part;
      if (key >= visible + 16 * kRowTiles - 1) break;
      WarpSums<kRowTiles, kStep> scores;
      multiply_rows<kWidth / 16>(scores, queries, warp_row, keys_of(tile).from(part));
      WarpRows<kRowTiles, kStep> weights;
      float shrink[kRowTiles][2];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        if (key + kStep > visible) hide_later_keys(scores[m], visible + 16 * m - key);
        softmax[m].take(scores[m], factor, shrink[m]);
        round_to_rows(weights[m], scores[m]);
      }
      rescale(sums, shrink);
      multiply_columns(sums, weights, values_of(tile).from(part));
    }
  }

  // Found again, so that it needs no registers above.
  const QueryTile<kQueries> to(a);
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    const float upper = softmax[m].whole_denominator(0), lower = softmax[m].whole_denominator(1);
    const int row = warp_row + 16 * m, count = to.count - row;
    store_row_tile(a.out, to.row + row, to.column, count, dim, sums[m], 1.0f / upper, 1.0f / lower);
    if (a.log_sums == nullptr || threadIdx.x % 4 != 0) continue;
    const int g = static_cast<int>(threadIdx.x % kWarp) / 4;
    float* const log_sums = a.log_sums + to.log_sum + row;
    if (g < count) log_sums[g] = fmaf(softmax[m].base[0], a.scale, logf(upper));
    if (g + 8 < count) log_sums[g + 8] = fmaf(softmax[m].base[1], a.scale, logf(lower));
  }
}

}  // namespace quest::cuda
