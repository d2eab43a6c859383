// The gradient of attention of bf16 rows on tensor cores: weights are computed anew from the log
// sums. One kernel makes d_q, one d_k and d_v, each summing in a fixed order; so two of the seven
// products are made twice, and nothing adds atomically.
#pragma once

#include "backend/cuda/attention_tiles.cuh"

namespace quest::cuda {

/// What the weights of a query and their gradients need of it.
struct alignas(8) QueryLine {
  float log_sum;     ///< log2 of its softmax's denominator; infinity behind the last query
  float correction;  ///< d_out . out
};

struct TensorGradient {
  FloatRows d_q, d_k, d_v;
  Bf16Rows d_out, q, k, v;
  const QueryLine* lines;  ///< [B, H, line_length]
  std::int64_t length;     ///< T
  std::int64_t line_length;
  HeadShape shape;
  float scale;
  TileOrder order;  ///< line: sequence * H (or Hkv) + head
};

/// Whole tiles of queries of all kernels.
inline constexpr int kLineMultiple = 128;

struct QueryLines {
  QueryLine* lines;  ///< [B, H, line_length]
  const float* log_sums;
  Bf16Rows d_out, out;
  std::int64_t length, line_length;
  HeadShape shape;
};

/// Sum of eight products.
__device__ inline float piece_dot(const std::uint16_t* a, const std::uint16_t* b, float sum) {
  const uint4 left = *reinterpret_cast<const uint4*>(a), right = *reinterpret_cast<const uint4*>(b);
  const unsigned lefts[] = {left.x, left.y, left.z, left.w};
  const unsigned rights[] = {right.x, right.y, right.z, right.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum = fmaf(__uint_as_float(lefts[i] << 16), __uint_as_float(rights[i] << 16), sum);
    sum = fmaf(__uint_as_float(lefts[i] & 0xffff0000u), __uint_as_float(rights[i] & 0xffff0000u),
               sum);
  }
  return sum;
}

inline constexpr int kLineThreads = 8;  // of one query and head

/// Eight threads make a line; line_length lines a head of a sequence.
__global__ void __launch_bounds__(kTileThreads) query_lines_kernel(QueryLines g) {
  follow_last_kernel();
  const unsigned item = blockIdx.x * (kTileThreads / kLineThreads) + threadIdx.x / kLineThreads;
  const auto line_length = static_cast<unsigned>(g.line_length);
  const auto heads = static_cast<unsigned>(g.shape.heads);
  const unsigned line = item / line_length, query = item % line_length;
  QueryLine made{HUGE_VALF, 0.0f};
  if (query < g.length) {
    const std::int64_t row = line / heads * g.length + query;
    const std::int64_t column = line % heads * g.shape.head_dim;
    for (std::int64_t d = threadIdx.x % kLineThreads * 8; d < g.shape.head_dim;
         d += kLineThreads * 8) {
      made.correction =
          piece_dot(g.d_out.at(row, column + d), g.out.at(row, column + d), made.correction);
    }
    made.log_sum = g.log_sums[line * g.length + query] * kLog2E;
  }
  for (int lanes = 1; lanes < kLineThreads; lanes *= 2) {
    made.correction += __shfl_xor_sync(kAllLanes, made.correction, lanes);
  }
  if (threadIdx.x % kLineThreads == 0) g.lines[item] = made;
}

/// Sizes of the kernel of d_q; a warp has kRowTiles * 16 queries, the block passes over keys.
template <int kWidth>
struct TensorDQSizes {
  using Tile = Bf16Tile<kWidth>;
  static constexpr int kRowTiles = 2;
  static constexpr int kQueries = kTileWarps * 16 * kRowTiles;
  static constexpr int kKeys = 32;
  static constexpr int kStepsAtOnce = 2;  ///< more spill registers
  static constexpr int kStages = 2;
  static constexpr int kSharedBytes = 2 * Tile::bytes(kQueries) + kStages * 2 * Tile::bytes(kKeys);
};

/// A block has a tile of queries; the last, which see most keys, come first.
template <int kWidth>
__global__ void __launch_bounds__(kTileThreads) tensor_d_q_kernel(TensorGradient a) {
  follow_last_kernel();
  using Sizes = TensorDQSizes<kWidth>;
  using Tile = typename Sizes::Tile;
  constexpr int kKeys = Sizes::kKeys, kQueries = Sizes::kQueries, kRowTiles = Sizes::kRowTiles;
  const auto heads = static_cast<unsigned>(a.shape.heads);
  const TileOrder::Place place = a.order.at(blockIdx.x);
  const unsigned head = place.line % heads;
  const std::int64_t start = place.line / heads * a.length;
  const int first = static_cast<int>(a.order.tiles - 1 - place.rank) * kQueries;
  const int dim = static_cast<int>(a.shape.head_dim);
  const std::int64_t column = std::int64_t{head} * dim;
  const std::int64_t kv_column = head / (heads / static_cast<unsigned>(a.shape.kv_heads)) * dim;
  const int g = static_cast<int>(threadIdx.x % kWarp) / 4, t = static_cast<int>(threadIdx.x) % 4;
  const int warp_row = static_cast<int>(threadIdx.x / kWarp) * 16 * kRowTiles;

  const Tile queries{dynamic_shared()}, d_outs{queries.data + Tile::bytes(kQueries)};
  const auto keys_of = [&](int tile) {
    return Tile{dynamic_shared() + 2 * Tile::bytes(kQueries) +
                tile % Sizes::kStages * 2 * Tile::bytes(kKeys)};
  };
  const auto values_of = [&](int tile) { return Tile{keys_of(tile).data + Tile::bytes(kKeys)}; };
  const int count = static_cast<int>(a.length) - first;  // may be more than the tile has
  const int last = count < kQueries ? static_cast<int>(a.length) : first + kQueries;
  TileCopy<kWidth, kKeys> key_copy(a.k.at(start, kv_column), a.k.stride);
  TileCopy<kWidth, kKeys> value_copy(a.v.at(start, kv_column), a.v.stride);
  const auto begin_copy = [&](int tile) {
    key_copy.begin(keys_of(tile), last - tile * kKeys, dim);
    value_copy.begin(values_of(tile), last - tile * kKeys, dim);
  };
  using QueryCopy = TileCopy<kWidth, kQueries>;
  QueryCopy(a.q.at(start + first, column), a.q.stride).begin(queries, count, dim);
  QueryCopy(a.d_out.at(start + first, column), a.d_out.stride).begin(d_outs, count, dim);
  begin_copy(0);
  commit_copies();

  const float factor = a.scale * kLog2E;
  QueryLine lines[kRowTiles][2];  // rows g and g + 8
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    const QueryLine* const line =
        a.lines + place.line * a.line_length + first + warp_row + 16 * m + g;
    lines[m][0] = line[0];
    lines[m][1] = line[8];
  }
  WarpSums<kRowTiles, kWidth> sums = {};
  const int tiles = (last + kKeys - 1) / kKeys;
  for (int tile = 0; tile < tiles; ++tile) {
    wait_for_copies<0>();
    __syncthreads();  // and the tile before has been read
    if (tile + 1 < tiles) begin_copy(tile + 1);
    commit_copies();
    // Of the warp's first query, relative to the tile's first key.
    const int query = first + warp_row - tile * kKeys;
    if (query + 16 * kRowTiles - 1 < 0) continue;
    WarpSums<kRowTiles, kKeys> weights, d_scores;
    multiply_rows<Sizes::kStepsAtOnce>(weights, queries, warp_row, keys_of(tile));
    multiply_rows<Sizes::kStepsAtOnce>(d_scores, d_outs, warp_row, values_of(tile));
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const QueryLine& line = lines[m][i / 2];
          const float weight = fast_exp2(fmaf(weights[m][n][i], factor, -line.log_sum));
          const bool hidden = 8 * n + 2 * t + i % 2 > query + 16 * m + g + i / 2 * 8;
          d_scores[m][n][i] = hidden ? 0.0f : weight * (d_scores[m][n][i] - line.correction);
        }
      }
    }
    WarpRows<kRowTiles, kKeys> rounded;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) round_to_rows(rounded[m], d_scores[m]);
    multiply_columns(sums, rounded, keys_of(tile));
  }
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    const int row = warp_row + 16 * m;
    store_row_tile(a.d_q, start + first + row, column, count - row, dim, sums[m], a.scale, a.scale);
  }
}

/// Sizes of the kernel of d_k and d_v; a warp has kRowTiles * 16 keys, the block passes over
/// queries.
template <int kWidth>
struct TensorDKvSizes {
  using Tile = Bf16Tile<kWidth>;
  static constexpr int kRowTiles = kWidth == 64 ? 2 : 1;
  static constexpr int kKeys = kTileWarps * 16 * kRowTiles;
  static constexpr int kQueries = kWidth == 64 ? 32 : 64;
  static constexpr int kStepsAtOnce = kWidth == 64 ? 2 : kWidth / 16;  ///< more spill registers
  static constexpr int kStages = 2;
  static constexpr int kLineBytes = kQueries * static_cast<int>(sizeof(QueryLine));
  static constexpr int kStageBytes = 2 * Tile::bytes(kQueries) + kLineBytes;
  static constexpr int kSharedBytes = 2 * Tile::bytes(kKeys) + kStages * kStageBytes;
};

/// A block has a tile of keys. It sums over the heads of a group, then over queries.
template <int kWidth>
__global__ void __launch_bounds__(kTileThreads) tensor_d_kv_kernel(TensorGradient a) {
  follow_last_kernel();
  using Sizes = TensorDKvSizes<kWidth>;
  using Tile = typename Sizes::Tile;
  constexpr int kKeys = Sizes::kKeys, kQueries = Sizes::kQueries, kRowTiles = Sizes::kRowTiles;
  const auto kv_heads = static_cast<unsigned>(a.shape.kv_heads);
  const TileOrder::Place place = a.order.at(blockIdx.x);
  const unsigned kv_head = place.line % kv_heads, sequence = place.line / kv_heads;
  const std::int64_t start = sequence * a.length;
  const int first = static_cast<int>(place.rank) * kKeys;
  const int dim = static_cast<int>(a.shape.head_dim), length = static_cast<int>(a.length);
  const std::int64_t column = std::int64_t{kv_head} * dim;
  const int group = static_cast<int>(a.shape.heads / a.shape.kv_heads);
  const int g = static_cast<int>(threadIdx.x % kWarp) / 4, t = static_cast<int>(threadIdx.x) % 4;
  const int warp_row = static_cast<int>(threadIdx.x / kWarp) * 16 * kRowTiles;

  const Tile keys{dynamic_shared()}, values{keys.data + Tile::bytes(kKeys)};
  const auto queries_of = [&](int turn) {
    return Tile{dynamic_shared() + 2 * Tile::bytes(kKeys) +
                turn % Sizes::kStages * Sizes::kStageBytes};
  };
  const auto d_outs_of = [&](int turn) {
    return Tile{queries_of(turn).data + Tile::bytes(kQueries)};
  };
  const auto lines_of = [&](int turn) {
    return reinterpret_cast<QueryLine*>(queries_of(turn).data + 2 * Tile::bytes(kQueries));
  };
  // A turn is a tile of queries of a head; those before the first key see none of the block's.
  const int tiles = (length - first + kQueries - 1) / kQueries, turns = group * tiles;
  using QueryCopy = TileCopy<kWidth, kQueries>;
  const auto begin_copy = [&](int turn, int head, int query) {
    const std::int64_t row = start + query, head_column = std::int64_t{head} * dim;
    QueryCopy(a.q.at(row, head_column), a.q.stride).begin(queries_of(turn), length - query, dim);
    QueryCopy(a.d_out.at(row, head_column), a.d_out.stride)
        .begin(d_outs_of(turn), length - query, dim);
    const QueryLine* const lines =
        a.lines + (sequence * a.shape.heads + head) * a.line_length + query;
    if (threadIdx.x < kQueries / 2) {
      copy_async(lines_of(turn) + 2 * threadIdx.x, lines + 2 * threadIdx.x, 16);
    }
  };
  using KeyCopy = TileCopy<kWidth, kKeys>;
  KeyCopy(a.k.at(start + first, column), a.k.stride).begin(keys, length - first, dim);
  KeyCopy(a.v.at(start + first, column), a.v.stride).begin(values, length - first, dim);
  int head = static_cast<int>(kv_head) * group, next_query = first;
  begin_copy(0, head, next_query);
  commit_copies();

  const float factor = a.scale * kLog2E;
  WarpSums<kRowTiles, kWidth> key_sums = {}, value_sums = {};
  for (int turn = 0; turn < turns; ++turn) {
    wait_for_copies<0>();
    __syncthreads();  // and the tile before has been read
    // Of the tile's first query, relative to the warp's first key.
    const int query = next_query - first - warp_row;
    next_query += kQueries;
    if (next_query >= length) {
      next_query = first;
      ++head;
    }
    if (turn + 1 < turns) begin_copy(turn + 1, head, next_query);
    commit_copies();
    if (query + kQueries - 1 < 0) continue;
    WarpSums<kRowTiles, kQueries> weights, d_scores;
    multiply_rows<Sizes::kStepsAtOnce>(weights, keys, warp_row, queries_of(turn));
    multiply_rows<Sizes::kStepsAtOnce>(d_scores, values, warp_row, d_outs_of(turn));
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
      const QueryLine* const lines = lines_of(turn) + 8 * n + 2 * t;
      const QueryLine pair[2] = {lines[0], lines[1]};
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const bool hidden = 16 * m + g + i / 2 * 8 > query + 8 * n + 2 * t + i % 2;
          const float weight =
              hidden ? 0.0f : fast_exp2(fmaf(weights[m][n][i], factor, -pair[i % 2].log_sum));
          weights[m][n][i] = weight;
          d_scores[m][n][i] = weight * (d_scores[m][n][i] - pair[i % 2].correction);
        }
      }
    }
    WarpRows<kRowTiles, kQueries> rounded;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) round_to_rows(rounded[m], weights[m]);
    multiply_columns(value_sums, rounded, d_outs_of(turn));
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) round_to_rows(rounded[m], d_scores[m]);
    multiply_columns(key_sums, rounded, queries_of(turn));
  }
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    const int row = first + warp_row + 16 * m;
    store_row_tile(a.d_k, start + row, column, length - row, dim, key_sums[m], a.scale, a.scale);
    store_row_tile(a.d_v, start + row, column, length - row, dim, value_sums[m], 1.0f, 1.0f);
  }
}

}  // namespace quest::cuda
