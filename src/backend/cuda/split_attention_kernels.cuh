// Attention of few bf16 queries over many kept keys, as in decoding, on tensor cores: the keys of a
// span are cut into parts (key_parts.cuh), each for a block. It has the queries of all heads that
// share a key head, up to 16 rows; each of its warps has 16 of every kWarps * 16 keys, and copies
// them for itself.
#pragma once

#include "backend/cuda/key_parts.cuh"
#include "backend/cuda/tensor_attention_kernels.cuh"

namespace quest::cuda {

/// Kept keys or values: bf16, or codes of 8 bits as pairs of them.
struct CacheValues {
  Bf16Rows rows;
  const float* scales;  ///< of codes
  std::int64_t scale_stride;
};

struct SplitAttention {
  FloatRows out;
  Bf16Rows q;
  CacheValues k, v;
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
  static constexpr int kWarps = kWidth <= 128 ? 4 : 2;
  static constexpr int kThreads = kWarps * static_cast<int>(kWarp);
  static constexpr int kKeys = 16;  // of a warp
  static constexpr int kStageBytes = 2 * Tile::bytes(kKeys);
  static constexpr int kStages = kStageBytes == 4096 ? 4 : 3;
  static constexpr int kJoinBytes = kWarps * kSplitRows * kWidth * 4;
  static constexpr int kCopyBytes = kWarps * kStages * kStageBytes;
  static constexpr int kSharedBytes = kCopyBytes > kJoinBytes ? kCopyBytes : kJoinBytes;
};

/// What a block computes: row r is query (first + r) / group and head (first + r) % group of the
/// key head's.
struct SplitPlace {
  SequenceSpan span;
  unsigned span_index, part, kv_head;
  int first, rows, group;
  int key, end;        ///< the part's first key and the end of those that a row sees
  std::int64_t parts;  ///< of the span

  __device__ explicit SplitPlace(const SplitAttention& a) {
    part = blockIdx.x % a.most_parts;
    unsigned rest = blockIdx.x / a.most_parts;
    first = static_cast<int>(rest % a.row_tiles) * kSplitRows;
    rest /= a.row_tiles;
    kv_head = rest % static_cast<unsigned>(a.shape.kv_heads);
    span_index = rest / static_cast<unsigned>(a.shape.kv_heads);
    span = a.spans.at(span_index);
    group = static_cast<int>(a.shape.heads / a.shape.kv_heads);
    const KeySplit split(span, a.shape);
    parts = split.parts;
    const int left = static_cast<int>(span.count) * group - first;
    const bool taken = part < split.parts && a.taken.has(span);
    rows = !taken ? 0 : left < kSplitRows ? left : kSplitRows;
    key = static_cast<int>(part * split.keys);
    end = key + static_cast<int>(split.keys);
    if (rows > 0 && visible(rows - 1) < end) end = visible(rows - 1);
  }
  __device__ int query(int row) const { return (first + row) / group; }
  __device__ std::int64_t head(int row) const {
    return std::int64_t{kv_head} * group + (first + row) % group;
  }
  /// Keys that a row sees.
  __device__ int visible(int row) const { return static_cast<int>(span.position) + query(row) + 1; }
};

/// Codes i and j of four, which have been turned from -128.. to 0.., as bf16: floats with the code
/// as their last digits, less what is before it. Exact.
__device__ inline unsigned code_pair(unsigned codes, unsigned i, unsigned j) {
  constexpr float kBefore = 8388608.0f + 128.0f;
  const float low = __uint_as_float(__byte_perm(codes, 0x4b000000u, 0x7440u | i)) - kBefore;
  const float high = __uint_as_float(__byte_perm(codes, 0x4b000000u, 0x7440u | j)) - kBefore;
  return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632u);
}

/// A warp's softmax over its keys, and the products of 16 rows with them.
template <int kWidth, bool kCodes>
struct SplitWarp {
  using Sizes = SplitSizes<kWidth, kCodes>;
  using Tile = typename Sizes::Tile;
  static constexpr unsigned kTurned = 0x80808080u;  // from -128.. to 0..
  unsigned queries[kWidth / 16][4];
  float sums[1][kWidth / 8][4] = {};
  TileSoftmax softmax;

  __device__ static int g() { return static_cast<int>(threadIdx.x % kWarp) / 4; }
  __device__ static int t() { return static_cast<int>(threadIdx.x) % 4; }
  /// Where the values of a lane lie: places of the first half of fragments a, their distance to
  /// those of the second half, and columns of sums.
  static constexpr int kPairStep = kCodes ? 4 : 2, kHalfStep = kCodes ? 2 : 8;
  __device__ static int column(int n, int i) {
    return kCodes ? n / 2 * 16 + 4 * t() + 2 * (i % 2) + n % 2 : 8 * n + 2 * t() + i % 2;
  }

  /// Rows g and g + 8 of q, as fragments a whose places are in the order of the keys' columns.
  __device__ void load_queries(const SplitAttention& a, const SplitPlace& place) {
    const int dim = static_cast<int>(a.shape.head_dim);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = g() + 8 * i;
      const bool used = row < place.rows;
      const std::uint16_t* const from =
          used ? a.q.at(place.span.first_row + place.query(row), place.head(row) * dim) : nullptr;
#pragma unroll
      for (int step = 0; step < kWidth / 16; ++step) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int at = 16 * step + kPairStep * t() + kHalfStep * half;
          queries[step][2 * half + i] =
              used && at < dim ? *reinterpret_cast<const unsigned*>(from + at) : 0u;
        }
      }
    }
  }

  /// scores [16, 16 keys] = q k
  __device__ void multiply_keys(float (&scores)[2][4], const Tile& keys) const {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n][i] = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < kWidth / 16; step += kCodes ? 2 : 1) {
      unsigned b[4];
      keys.load_right(b, 0, kCodes ? step / 2 : step);
      if constexpr (!kCodes) {
        multiply_add(scores[0], queries[step], b[0], b[2]);
        multiply_add(scores[1], queries[step], b[1], b[3]);
      } else {
        // b[i] has four codes of key g (and g + 8 where i is odd) of two steps.
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const unsigned codes = b[i] ^ kTurned;
          multiply_add(scores[i % 2], queries[step + i / 2], code_pair(codes, 0, 1),
                       code_pair(codes, 2, 3));
        }
      }
    }
  }

  /// sums += weights [16, 16 keys] v
  __device__ void multiply_values(const unsigned (&weights)[1][1][4], const Tile& values) {
    if constexpr (!kCodes) {
      multiply_columns(sums, weights, values);
    } else {
#pragma unroll
      for (int step = 0; step < kWidth / 32; ++step) {
        unsigned b[4];
        values.load_right_transposed(b, 0, step);
        // b[i] has two columns, an even one and the next, of two keys.
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
          const unsigned low = b[i] ^ kTurned, high = b[i + 1] ^ kTurned;
          const int n = 4 * step + i;
          multiply_add(sums[0][n], weights[0][0], code_pair(low, 0, 2), code_pair(high, 0, 2));
          multiply_add(sums[0][n + 1], weights[0][0], code_pair(low, 1, 3), code_pair(high, 1, 3));
        }
      }
    }
  }

  /// Takes 16 keys, of which rows g and g + 8 see so many. Lane l has the scale of key l or, from
  /// 16 on, of the value of key l - 16.
  __device__ void take(const Tile& keys, const Tile& values, const int (&visible)[2], float factor,
                       float scales) {
    float scores[2][4], shrink[1][2];
    multiply_keys(scores, keys);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = 8 * n + 2 * t() + i % 2;
        if constexpr (kCodes) scores[n][i] *= __shfl_sync(kAllLanes, scales, key);
        if (key >= visible[i / 2]) scores[n][i] = -HUGE_VALF;
      }
    }
    softmax.take(scores, factor, shrink[0]);
    if constexpr (kCodes) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float by = __shfl_sync(kAllLanes, scales, 16 + 8 * n + 2 * t() + i % 2);
          // A scale may be NaN, which only rows that see it may get.
          if (scores[n][i] != 0.0f) scores[n][i] *= by;
        }
      }
    }
    unsigned weights[1][1][4];
    round_to_rows(weights[0], scores);
    rescale(sums, shrink);
    multiply_values(weights, values);
  }
};

/// Joins the warps of a block, in order, and writes rows of out or of a part.
template <int kWidth, bool kCodes>
__device__ void write_split(const SplitAttention& a, const SplitPlace& place,
                            const SplitWarp<kWidth, kCodes>& warp, float factor) {
  using Sizes = SplitSizes<kWidth, kCodes>;
  __shared__ PartState states[Sizes::kWarps][kSplitRows];
  using Sums = float[kSplitRows][kWidth];
  auto* const all_sums = reinterpret_cast<Sums*>(dynamic_shared());
  const int own = static_cast<int>(threadIdx.x / kWarp), dim = static_cast<int>(a.shape.head_dim);
  __syncthreads();  // Every warp has read what it copied.
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp.g() + 8 * half;
    const float denominator = warp.softmax.whole_denominator(half);
    if (warp.t() == 0) states[own][row] = {warp.softmax.base[half] * factor, denominator};
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        all_sums[own][row][warp.column(n, i)] = warp.sums[0][n][i];
      }
    }
  }
  __syncthreads();
  for (int item = static_cast<int>(threadIdx.x); item < place.rows * dim; item += Sizes::kThreads) {
    const int row = item / dim, d = item % dim;
    PartState joined{-HUGE_VALF, 0.0f};
    float sum = 0.0f;
    for (int w = 0; w < Sizes::kWarps; ++w) joined.base = fmaxf(joined.base, states[w][row].base);
    for (int w = 0; w < Sizes::kWarps; ++w) {
      const PartState& state = states[w][row];
      const float by = state.base == -HUGE_VALF ? 0.0f : fast_exp2(state.base - joined.base);
      joined.denominator = fmaf(by, state.denominator, joined.denominator);
      sum = fmaf(by, all_sums[w][row][d], sum);
    }
    if (place.parts == 1) {
      a.out.store(place.span.first_row + place.query(row), place.head(row) * dim + d,
                  sum / joined.denominator);
      continue;
    }
    const std::int64_t slot =
        a.parts.slot(place.span_index, place.query(row), place.parts, place.part);
    const std::int64_t at = slot * a.shape.heads + place.head(row);
    a.parts.sums[at * dim + d] = sum;
    if (d == 0) a.parts.states[at] = joined;
  }
}

template <int kWidth, bool kCodes>
__global__ void __launch_bounds__(SplitSizes<kWidth, kCodes>::kThreads)
    split_attention_kernel(SplitAttention a) {
  follow_last_kernel();
  using Sizes = SplitSizes<kWidth, kCodes>;
  using Tile = typename Sizes::Tile;
  constexpr int kKeys = Sizes::kKeys, kTurnKeys = Sizes::kWarps * kKeys;
  const SplitPlace place(a);
  if (place.rows <= 0) return;
  const auto lane = static_cast<int>(threadIdx.x % kWarp);
  const auto own = static_cast<int>(threadIdx.x / kWarp);
  const int dim = static_cast<int>(a.shape.head_dim);
  const std::int64_t column = place.kv_head * a.shape.head_dim / (kCodes ? 2 : 1);
  const int first = place.key + own * kKeys;  // of the warp's keys
  const auto keys_of = [&](int turn) {
    return Tile{dynamic_shared() +
                (own * Sizes::kStages + turn % Sizes::kStages) * Sizes::kStageBytes};
  };
  const auto values_of = [&](int turn) { return Tile{keys_of(turn).data + Tile::bytes(kKeys)}; };
  const auto begin_copy = [&](int turn) {
    const int key = first + turn * kTurnKeys, left = place.end - key;
    if (left > 0) {
      using Copy = TileCopy<Tile::kPieces * 8, kKeys, static_cast<int>(kWarp)>;
      const std::int64_t row = place.span.cache_row + key;
      Copy(a.k.rows.at(row, column), a.k.rows.stride)
          .begin(keys_of(turn), left, dim / (kCodes ? 2 : 1));
      Copy(a.v.rows.at(row, column), a.v.rows.stride)
          .begin(values_of(turn), left, dim / (kCodes ? 2 : 1));
    }
    commit_copies();
  };
  // The scale that this lane has of a turn's keys; see SplitWarp::take.
  const float* const scales = lane < kKeys ? a.k.scales : a.v.scales;
  const std::int64_t scale_stride = lane < kKeys ? a.k.scale_stride : a.v.scale_stride;
  const auto scale_of = [&](int turn) {
    const int key = first + turn * kTurnKeys + lane % kKeys;
    return kCodes && key < place.end
               ? scales[(place.span.cache_row + key) * scale_stride + place.kv_head]
               : 0.0f;
  };

#pragma unroll
  for (int turn = 0; turn < Sizes::kStages - 1; ++turn) begin_copy(turn);
  SplitWarp<kWidth, kCodes> warp;
  warp.load_queries(a, place);
  float next_scale = scale_of(0);
  const float factor = a.scale * kLog2E;
  const int visible[2] = {place.visible(warp.g()), place.visible(warp.g() + 8)};
  for (int turn = 0; first + turn * kTurnKeys < place.end; ++turn) {
    wait_for_copies<Sizes::kStages - 2>();
    __syncwarp();  // and the turn before has been read
    begin_copy(turn + Sizes::kStages - 1);
    const float scale = next_scale;
    next_scale = scale_of(turn + 1);
    const int key = first + turn * kTurnKeys, left = place.end - key;
    const int seen[2] = {visible[0] - key < left ? visible[0] - key : left,
                         visible[1] - key < left ? visible[1] - key : left};
    warp.take(keys_of(turn), values_of(turn), seen, factor, scale);
  }
  wait_for_copies<0>();
  write_split(a, SplitPlace(a), warp, factor);  // found again: it needs no registers above
}

}  // namespace quest::cuda
