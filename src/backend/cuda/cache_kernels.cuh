// Kernels that put keys and values at their places in a cache, as they are or after the rotary
// embedding of a pass: a warp has a head of a row.
#pragma once

#include "backend/cuda/attention_order.cuh"
#include "backend/cuda/device_rows.cuh"

namespace quest::cuda {

inline constexpr int kMostPairs = 4;  // of a lane: heads of up to 256 values

/// Keys or values that are written: floats, or codes with a scale for each row and head.
struct CacheOut {
  FloatRows floats;
  std::int8_t* codes;  ///< null: floats
  float* scales;
  std::int64_t code_stride, scale_stride;
};

/// The two values of each of a lane's pairs, the first of them number lane + 32 p of their kind.
using HeadPairs = float[kMostPairs][2];

/// Where the values of a head's pairs lie: neighbours, or half a head apart.
struct PairPlaces {
  int half;  ///< D/2, rounded up: of an odd D the last second value is not there
  int dim;
  bool neighbours;
  __device__ int first(int pair) const { return neighbours ? 2 * pair : pair; }
  __device__ int second(int pair) const { return neighbours ? 2 * pair + 1 : pair + half; }
};

/// body(p, place of the first, place of the second or -1) for a lane's pairs.
template <typename Body>
__device__ void for_each_pair(const PairPlaces& places, Body body) {
#pragma unroll
  for (int p = 0; p < kMostPairs; ++p) {
    const int pair = static_cast<int>(threadIdx.x % kWarp) + p * static_cast<int>(kWarp);
    if (pair >= places.half) continue;
    const int second = places.second(pair);
    body(p, places.first(pair), second < places.dim ? second : -1);
  }
}

/// Row `to` and head `head` of the cache = a head's values.
__device__ inline void keep_head(const CacheOut& out, std::int64_t to, std::int64_t head,
                                 const HeadPairs& values, const PairPlaces& places) {
  const std::int64_t begin = head * places.dim;
  if (out.codes == nullptr) {
    for_each_pair(places, [&](int p, int first, int second) {
      out.floats.store(to, begin + first, values[p][0]);
      if (second >= 0) out.floats.store(to, begin + second, values[p][1]);
    });
    return;
  }
  float largest = 0.0f;
  for_each_pair(places, [&](int p, int, int second) {
    largest = Larger()(largest, fabsf(values[p][0]));
    if (second >= 0) largest = Larger()(largest, fabsf(values[p][1]));
  });
  largest = warp_join(largest, Larger());
  const bool finite = largest <= 3.402823466e38f;
  const bool any = finite && largest > 0.0f;
  const auto code = [&](float value) {
    return static_cast<std::int8_t>(rintf((any ? value / largest : 0.0f) * 127.0f));
  };
  std::int8_t* const codes = out.codes + to * out.code_stride + begin;
  for_each_pair(places, [&](int p, int first, int second) {
    codes[first] = code(values[p][0]);
    if (second >= 0) codes[second] = code(values[p][1]);
  });
  if (threadIdx.x % kWarp == 0) {
    out.scales[to * out.scale_stride + head] = finite ? largest / 127.0f : nanf("");
  }
}

struct CacheAppend {
  CacheOut cache;
  FloatRows x;
  PairPlaces places;
  Spans spans;
  TileOrder order;  ///< line: span * heads + head; a tile is a row
  unsigned heads;   ///< of codes; a row of floats is one
};

__global__ void __launch_bounds__(kWarp) cache_append_kernel(CacheAppend a) {
  follow_last_kernel();
  const auto [line, row] = a.order.at(blockIdx.x);
  const SequenceSpan span = a.spans.at(line / a.heads);
  if (row >= span.count) return;
  const std::int64_t head = line % a.heads, from = span.first_row + row;
  const std::int64_t to = span.cache_row + span.position + row;
  if (a.cache.codes == nullptr) {
    for (std::int64_t i = threadIdx.x; i < a.places.dim; i += kWarp) {
      a.cache.floats.store(to, i, a.x.load(from, i));
    }
    return;
  }
  HeadPairs values;
  for_each_pair(a.places, [&](int p, int first, int second) {
    values[p][0] = a.x.load(from, head * a.places.dim + first);
    if (second >= 0) values[p][1] = a.x.load(from, head * a.places.dim + second);
  });
  keep_head(a.cache, to, head, values, a.places);
}

struct RopeAppend {
  FloatRows qkv;
  const float *cos, *sin;
  CacheOut k, v;
  PairPlaces places;
  Spans spans;
  TileOrder order;  ///< line: span * (heads + 2 kv_heads) + head; a tile is a row
  unsigned heads, kv_heads;
};

/// Turns q and k in place, as cached_rope_kernel, and keeps k and v.
__global__ void __launch_bounds__(kWarp) cached_rope_append_kernel(RopeAppend a) {
  follow_last_kernel();
  const auto [line, row] = a.order.at(blockIdx.x);
  const unsigned all = a.heads + 2 * a.kv_heads, head = line % all;
  const SequenceSpan span = a.spans.at(line / all);
  if (row >= span.count) return;
  const std::int64_t from = span.first_row + row, position = span.position + row;
  const std::int64_t begin = std::int64_t{head} * a.places.dim;
  const bool turns = head < a.heads + a.kv_heads;
  HeadPairs values;
  for_each_pair(a.places, [&](int p, int first, int second) {
    const float xa = a.qkv.load(from, begin + first), xb = a.qkv.load(from, begin + second);
    values[p][0] = xa;
    values[p][1] = xb;
    if (!turns) return;
    const std::int64_t angle = position * a.places.half + threadIdx.x + p * kWarp;
    const float c = a.cos[angle], s = a.sin[angle];
    values[p][0] = a.qkv.rounded(xa * c - xb * s);
    values[p][1] = a.qkv.rounded(xa * s + xb * c);
    a.qkv.store(from, begin + first, values[p][0]);
    a.qkv.store(from, begin + second, values[p][1]);
  });
  if (head < a.heads) return;
  const std::int64_t to = span.cache_row + position;
  keep_head(turns ? a.k : a.v, to, (head - a.heads) % a.kv_heads, values, a.places);
}

}  // namespace quest::cuda
