// Attention of few bf16 queries over many kept keys, as in decoding, on tensor cores: the keys of a
// span are cut into parts (key_parts.cuh), each for a block. It has the queries of all heads that
// share a key head, up to 16 rows; each of its warps has 16 of every kWarps * 16 keys, and copies
// them for itself.
#pragma once

#include "backend/cuda/split_attention_rows.cuh"
#include "backend/cuda/tensor_attention_kernels.cuh"

namespace quest::cuda {

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
  /// Columns of sums that a lane has.
  __device__ static int column(int n, int i) {
    return kCodes ? n / 2 * 16 + 4 * t() + 2 * (i % 2) + n % 2 : 8 * n + 2 * t() + i % 2;
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
  for (int item = static_cast<int>(threadIdx.x); item < place.rows * kWidth;
       item += Sizes::kThreads) {
    const int row = item / kWidth, d = item % kWidth;
    if (d >= dim) continue;
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
  admit_next_kernel();
  using Sizes = SplitSizes<kWidth, kCodes>;
  using Tile = typename Sizes::Tile;
  constexpr int kKeys = Sizes::kKeys, kTurnKeys = Sizes::kWarps * kKeys;
  __shared__ SplitPlace shared_place;  // for the end: it needs no registers until then
  __shared__ KeptRow<kWidth, kCodes> kept_row;
  SplitPlace place(a);
  await_last_kernel();
  place.find(a);
  if (place.rows <= 0) return;
  if (threadIdx.x == 0) shared_place = place;
  const auto lane = static_cast<int>(threadIdx.x % kWarp);
  const auto own = static_cast<int>(threadIdx.x / kWarp);
  const int dim = static_cast<int>(a.shape.head_dim);
  const std::int64_t column = place.kv_head * dim / (kCodes ? 2 : 1);
  const int first = place.key + own * kKeys;  // of the warp's keys
  const auto keys_of = [&](int turn) {
    return Tile{dynamic_shared() +
                (own * Sizes::kStages + turn % Sizes::kStages) * Sizes::kStageBytes};
  };
  const auto values_of = [&](int turn) { return Tile{keys_of(turn).data + Tile::bytes(kKeys)}; };
  const auto begin_copy = [&](int turn) {
    const int key = first + turn * kTurnKeys;
    if (key < place.end) {
      using Copy = TileCopy<Tile::kPieces * 8, kKeys, static_cast<int>(kWarp)>;
      const std::int64_t row = place.span.cache_row + key;
      Copy(a.k.rows.at(row, column), a.k.rows.stride)
          .begin(keys_of(turn), place.kept_end - key, dim / (kCodes ? 2 : 1));
      Copy(a.v.rows.at(row, column), a.v.rows.stride)
          .begin(values_of(turn), place.kept_end - key, dim / (kCodes ? 2 : 1));
    }
    commit_copies();
  };
  // The scale that this lane has of a turn's keys; see SplitWarp::take.
  const float* const scales = lane < kKeys ? a.k.scales : a.v.scales;
  const std::int64_t scale_stride = lane < kKeys ? a.k.scale_stride : a.v.scale_stride;
  const auto scale_of = [&](int turn) {
    const int key = first + turn * kTurnKeys + lane % kKeys;
    return kCodes && key < place.kept_end
               ? scales[(place.span.cache_row + key) * scale_stride + place.kv_head]
               : 0.0f;
  };

#pragma unroll
  for (int turn = 0; turn < Sizes::kStages - 1; ++turn) begin_copy(turn);
  float next_scale = scale_of(0);
  // Two warps have the new key and the new value.
  typename KeptRow<kWidth, kCodes>::Values values;
  const int which = Sizes::kWarps - 1 - own;
  const bool keeps = place.has_new_key() && which < 2;
  if (keeps) kept_row.load(values, a, place, which);
  const SplitQueries<kWidth, kCodes> queries{{dynamic_shared() + Sizes::kQueryPlace}};
  queries.fill(a, place);
  if (keeps) kept_row.keep(values, a, which);
  __syncthreads();
  SplitWarp<kWidth, kCodes> warp;
  queries.load(warp.queries, place.rows, dim);
  __syncthreads();  // They make room for a stage.
  const float factor = a.scale * kLog2E;
  const int visible[2] = {place.visible(warp.g()), place.visible(warp.g() + 8)};
  for (int turn = 0; first + turn * kTurnKeys < place.end; ++turn) {
    wait_for_copies<Sizes::kStages - 2>();
    __syncwarp();  // and the turn before has been read
    begin_copy(turn + Sizes::kStages - 1);
    float scale = next_scale;
    next_scale = scale_of(turn + 1);
    const int key = first + turn * kTurnKeys, left = place.end - key;
    if (place.has_new_key() && left <= kKeys) {
      kept_row.put(keys_of(turn), values_of(turn), left - 1, scale, a, place);
    }
    const int seen[2] = {visible[0] - key < left ? visible[0] - key : left,
                         visible[1] - key < left ? visible[1] - key : left};
    warp.take(keys_of(turn), values_of(turn), seen, factor, scale);
  }
  wait_for_copies<0>();
  write_split(a, shared_place, warp, factor);
}

}  // namespace quest::cuda
