// Kernels that put keys and values at their places in a cache, as they are or after the rotary
// embedding of a pass: a warp has a head of a row.
#pragma once

#include "backend/cuda/attention_order.cuh"
#include "backend/cuda/cache_heads.cuh"

namespace quest::cuda {

struct CacheAppend {
  CacheOut cache;
  FloatRows x;
  PairPlaces places;
  Spans spans;
  TileOrder order;  ///< line: span * heads + head; a tile is a row
  unsigned heads;   ///< of codes; a row of floats is one
};

template <int kPairs>
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
  HeadValues<kPairs> values;
  values.load(a.x, from, head * a.places.dim, a.places);
  keep_head(a.cache, to, head, values.pairs, a.places);
}

struct RopeAppend {
  FloatRows qkv;
  Angles angles;
  CacheOut k, v;
  PairPlaces places;
  Spans spans;
  TileOrder order;  ///< line: span * (heads + 2 kv_heads) + head; a tile is a row
  unsigned heads, kv_heads;
};

/// Turns q and k in place, as cached_rope_kernel, and keeps k and v.
template <int kPairs>
__global__ void __launch_bounds__(kWarp) cached_rope_append_kernel(RopeAppend a) {
  follow_last_kernel();
  const auto [line, row] = a.order.at(blockIdx.x);
  const unsigned all = a.heads + 2 * a.kv_heads, head = line % all;
  const SequenceSpan span = a.spans.at(line / all);
  if (row >= span.count) return;
  const std::int64_t from = span.first_row + row, position = span.position + row;
  const std::int64_t begin = std::int64_t{head} * a.places.dim;
  const bool turns = head < a.heads + a.kv_heads;
  HeadValues<kPairs> values;
  values.load(a.qkv, from, begin, a.places, turns ? a.angles : Angles(), position);
  if (turns) {
    values.turn(a.qkv);
    for_each_pair<kPairs>(a.places, [&](int p, int first, int second) {
      a.qkv.store(from, begin + first, values.pairs[p][0]);
      a.qkv.store(from, begin + second, values.pairs[p][1]);
    });
  }
  if (head < a.heads) return;
  const std::int64_t to = span.cache_row + position;
  keep_head(turns ? a.k : a.v, to, (head - a.heads) % a.kv_heads, values.pairs, a.places);
}

}  // namespace quest::cuda
