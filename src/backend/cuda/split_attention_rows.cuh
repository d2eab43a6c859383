// What a block of split attention (split_attention_kernels.cuh) computes, and the rows that it
// reads beside kept keys: queries and, where a pass has one query a sequence, the key and the value
// of its position, which are turned and kept on the way.
#pragma once

#include "backend/cuda/attention_tiles.cuh"
#include "backend/cuda/cache_heads.cuh"
#include "backend/cuda/float_vectors.cuh"
#include "backend/cuda/key_parts.cuh"

namespace quest::cuda {

/// Kept keys or values: bf16, or codes of 8 bits as pairs of them.
struct CacheValues {
  Bf16Rows rows;
  const float* scales;  ///< of codes
  std::int64_t scale_stride;
};

/// Of spans of one query: what q, k and v come from. Kernels read none of the rows of the cache
/// that are written here.
struct NewRows {
  std::uint16_t* qkv;  ///< bf16 [R, (H + 2 Hkv) D]: rows of SplitAttention's q, and what follows
  Angles angles;       ///< null: queries have been turned, and keys and values kept
  bool neighbours;
  std::uint16_t *k, *v;  ///< the rows of SplitAttention's k and v
  float *k_scales, *v_scales;
};

struct SplitAttention {
  FloatRows out;
  Bf16Rows q;
  CacheValues k, v;
  NewRows fresh;
  PartSums parts;
  Spans spans;
  HeadShape shape;
  float scale;       ///< 1 / sqrt(D)
  CountRange taken;  ///< other spans are left alone
  unsigned most_parts, row_tiles;
};

template <int kWidth, bool kCodes>
struct SplitSizes {
  // A row of codes has half as many bytes, but at least eight pieces.
  using Tile = Bf16Tile<!kCodes ? kWidth : kWidth == 256 ? 128 : 64>;
  using QueryTile = Bf16Tile<kWidth>;
  static constexpr int kWarps = kWidth <= 128 ? 4 : 2;
  static constexpr int kThreads = kWarps * static_cast<int>(kWarp);
  static constexpr int kKeys = 16;  // of a warp
  static constexpr int kStageBytes = 2 * Tile::bytes(kKeys);
  static constexpr int kStages = kStageBytes == 4096 ? 4 : 3;
  static constexpr int kJoinBytes = kWarps * kSplitRows * kWidth * 4;
  static constexpr int kCopyBytes = kWarps * kStages * kStageBytes;
  static constexpr int kSharedBytes = kCopyBytes > kJoinBytes ? kCopyBytes : kJoinBytes;
  /// Queries lie where the last stage of the first warp will.
  static constexpr int kQueryPlace = (kStages - 1) * kStageBytes;
  static_assert(QueryTile::bytes(kSplitRows) <= kStageBytes);
};

/// What a block computes: row r is query (first + r) / group and head (first + r) % group of the
/// key head's.
struct SplitPlace {
  SequenceSpan span;
  unsigned span_index, part, parts;  ///< parts of the span
  int kv_head;
  int first, rows, group;
  int key, end;  ///< the part's first key and the end of those that a row sees
  int kept_end;  ///< of those that the cache has: `end`, or one less where the last is new

  SplitPlace() = default;
  /// Which block of which span; nothing that a kernel has written is read.
  __device__ explicit SplitPlace(const SplitAttention& a) {
    const auto kv_heads = static_cast<unsigned>(a.shape.kv_heads);
    part = blockIdx.x % a.most_parts;
    unsigned rest = blockIdx.x / a.most_parts;
    first = static_cast<int>(rest % a.row_tiles) * kSplitRows;
    rest /= a.row_tiles;
    kv_head = static_cast<int>(rest % kv_heads);
    span_index = rest / kv_heads;
    group = static_cast<int>(static_cast<unsigned>(a.shape.heads) / kv_heads);
  }
  /// The rest.
  __device__ void find(const SplitAttention& a) {
    span = a.spans.at(span_index);
    const KeySplit split(span, a.parts.limits);
    parts = split.parts;
    const int left = static_cast<int>(span.count) * group - first;
    const bool taken = part < split.parts && a.taken.has(span);
    rows = !taken ? 0 : left < kSplitRows ? left : kSplitRows;
    key = static_cast<int>(part * split.keys);
    end = key + static_cast<int>(split.keys);
    if (rows > 0 && visible(rows - 1) < end) end = visible(rows - 1);
    const int position = static_cast<int>(span.position);
    kept_end = a.fresh.angles.cos != nullptr && position < end ? position : end;
  }
  __device__ bool has_new_key() const { return kept_end < end; }
  __device__ int query(int row) const {
    return first + row < group  // the most frequent case, without a division
               ? 0
               : static_cast<int>(static_cast<unsigned>(first + row) /
                                  static_cast<unsigned>(group));
  }
  __device__ int head(int row) const { return kv_head * group + first + row - query(row) * group; }
  /// Keys that a row sees.
  __device__ int visible(int row) const { return static_cast<int>(span.position) + query(row) + 1; }
};

/// Queries in shared memory: a block's rows, in columns whose order is that of the keys' columns
/// (SplitWarp). What no query has is not written.
template <int kWidth, bool kCodes>
struct SplitQueries {
  using Tile = Bf16Tile<kWidth>;
  Tile tile;

  /// By all threads of the block. Queries are turned where NewRows says so, with the bits of
  /// HeadValues.
  __device__ void fill(const SplitAttention& a, const SplitPlace& place) const {
    constexpr int kItems = kWidth / 8, kThreads = SplitSizes<kWidth, kCodes>::kThreads;
    const int dim = static_cast<int>(a.shape.head_dim);
    const bool turns = a.fresh.angles.cos != nullptr, apart = turns && !a.fresh.neighbours;
    for (int item = static_cast<int>(threadIdx.x); item < place.rows * kItems; item += kThreads) {
      // Four pairs of values; these are neighbours or half a head apart.
      const int row = item / kItems, i = item % kItems;
      if (8 * i >= dim) continue;
      const int first = apart ? 4 * i : 8 * i, second = apart ? first + dim / 2 : first + 4;
      const std::uint16_t* const from =
          a.q.at(place.span.first_row + place.query(row), place.head(row) * dim);
      float x[2][4], c[4], s[4];
      if (turns) {
        const std::int64_t angle = place.span.position * (dim / 2) + 4 * i;
        load_values(c, a.fresh.angles.cos + angle);
        load_values(s, a.fresh.angles.sin + angle);
      }
      load_values(x[0], from + first);
      load_values(x[1], from + second);
      if (apart) {
#pragma unroll
        for (int j = 0; j < 4; ++j) turn_pair(x[0][j], x[1][j], c[j], s[j]);
      } else if (turns) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          turn_pair(x[j / 2][j % 2 * 2], x[j / 2][j % 2 * 2 + 1], c[j], s[j]);
        }
      }
      store(row, first, x[0]);
      store(row, second, x[1]);
    }
  }

  /// Rows g and g + 8 as fragments a, step by step.
  __device__ void load(unsigned (&queries)[kWidth / 16][4], int rows, int dim) const {
    const int g = static_cast<int>(threadIdx.x % kWarp) / 4, t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int step = 0; step < kWidth / 16; ++step) {
      tile.load_left(queries[step], 0, step);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = 16 * step + (kCodes ? 4 * t + i / 2 * 2 : 2 * t + i / 2 * 8);
        if (g + i % 2 * 8 >= rows || column >= dim) queries[step][i] = 0u;
      }
    }
  }

 private:
  // Four neighbours from a multiple of 4 on.
  __device__ void store(int row, int column, const float (&values)[4]) const {
    const unsigned words[2] = {bf16_pair(values[0], values[1]), bf16_pair(values[2], values[3])};
    // Of codes a lane reads four neighbours: places 2 t and 8 + 2 t.
    const int in_step = column % 16;
    *word(row, kCodes ? column - in_step + in_step / 2 : column) = words[0];
    *word(row, kCodes ? column - in_step + in_step / 2 + 8 : column + 2) = words[1];
  }
  __device__ unsigned* word(int row, int column) const {
    return reinterpret_cast<unsigned*>(tile.data + row * Tile::kRowBytes +
                                       ((column / 8 ^ (row & 7)) * 16 + column % 8 * 2));
  }
};

/// The key and the value of a new position and one key head, as they are kept, in shared memory.
template <int kWidth, bool kCodes>
struct KeptRow {
  static constexpr int kRowBytes = kWidth * (kCodes ? 1 : 2), kPieces = kRowBytes / 16;
  using Values = HeadValues<kWidth / (2 * static_cast<int>(kWarp))>;
  alignas(16) std::byte rows[2][kRowBytes];
  float scales[2];

  __device__ static FloatRows source(const SplitAttention& a) {
    return {a.fresh.qkv, a.q.stride, true};
  }
  __device__ static PairPlaces places(const SplitAttention& a) {
    const int dim = static_cast<int>(a.shape.head_dim);
    return {dim / 2, dim, a.fresh.neighbours};
  }
  /// A warp's values of the key (which = 0) or the value (1).
  __device__ static void load(Values& values, const SplitAttention& a, const SplitPlace& place,
                              int which) {
    const std::int64_t head = a.shape.heads + which * a.shape.kv_heads + place.kv_head;
    values.load(source(a), place.span.first_row, head * a.shape.head_dim, places(a),
                which == 0 ? a.fresh.angles : Angles(), place.span.position);
  }
  __device__ void keep(Values& values, const SplitAttention& a, int which) {
    if (which == 0) values.turn(source(a));
    CacheOut out{};
    if constexpr (kCodes) {
      out.codes = reinterpret_cast<std::int8_t*>(rows[which]);
      out.scales = &scales[which];
    } else {
      out.floats = {rows[which], 0, true};
    }
    keep_head(out, 0, 0, values.pairs, places(a));
  }

  /// Puts both into the cache and, by one warp, into row `slot` of tiles of keys and of values,
  /// whose copies have come. `scale` is this lane's of SplitWarp::take.
  template <typename Tile>
  __device__ void put(const Tile& keys, const Tile& values, int slot, float& scale,
                      const SplitAttention& a, const SplitPlace& place) const {
    const auto lane = static_cast<int>(threadIdx.x % kWarp);
    const int bytes = static_cast<int>(a.shape.head_dim) * (kCodes ? 1 : 2);
    const std::int64_t row = place.span.cache_row + place.kept_end;
#pragma unroll
    for (int i = 0; i < 2 * kPieces; i += static_cast<int>(kWarp)) {
      const int which = (i + lane) / kPieces, piece = (i + lane) % kPieces;
      if (which > 1 || 16 * piece >= bytes) continue;
      const uint4 data = *reinterpret_cast<const uint4*>(rows[which] + 16 * piece);
      std::byte* const tile = (which == 0 ? keys : values).data + slot * Tile::kRowBytes;
      *reinterpret_cast<uint4*>(tile + (piece ^ (slot & 7)) * 16) = data;
      const std::int64_t stride = which == 0 ? a.k.rows.stride : a.v.rows.stride;
      std::uint16_t* const kept = (which == 0 ? a.fresh.k : a.fresh.v) + row * stride;
      *reinterpret_cast<uint4*>(kept + (place.kv_head * bytes / 2 + 8 * piece)) = data;
    }
    if (kCodes && lane % 16 == slot) {
      scale = scales[lane / 16];
      const std::int64_t stride = lane < 16 ? a.k.scale_stride : a.v.scale_stride;
      (lane < 16 ? a.fresh.k_scales : a.fresh.v_scales)[row * stride + place.kv_head] = scale;
    }
    __syncwarp();
  }
};

}  // namespace quest::cuda
