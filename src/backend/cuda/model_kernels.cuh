// Kernels of the model that are no products: embedding, rotary embedding, SwiGLU.
#pragma once

#include <type_traits>

#include "backend/cuda/attention_order.cuh"
#include "backend/cuda/row_sources.cuh"
#include "backend/cuda/row_vectors.cuh"
#include "core/bfloat16.h"

namespace quest::cuda {

template <typename Table>
struct Embedding {
  static constexpr int kWidth = std::is_same_v<Table, FloatRows> ? 1 : 4;
  TypedRows<float> x;
  Table table;
  const std::int32_t* tokens;
  __device__ void operator()(std::int64_t r, std::int64_t c) const {
    float values[kWidth];
    load_values(values, table, tokens[r], c);
    store_values(x, r, c, values);
  }
};

/// Rows that a block of embedding_backward_kernel looks at at once.
inline constexpr unsigned kTokenRows = 1024;

/// sums[c] += rows of d_x at column c, which `found` names, in their order.
template <int kWidth>
__device__ __forceinline__ void add_found(float* sums, const float* d_x, const unsigned* found,
                                          unsigned count, std::int64_t columns, std::int64_t c) {
  constexpr unsigned kAhead = 4;  // rows that are underway at once
  float sum[kWidth];
  load_values(sum, sums + c);
  for (unsigned begin = 0; begin < count; begin += kAhead) {
    float values[kAhead][kWidth];
#pragma unroll
    for (unsigned k = 0; k < kAhead; ++k) {
      if (begin + k < count) load_values(values[k], d_x + (found[begin + k] * columns + c));
    }
#pragma unroll
    for (unsigned k = 0; k < kAhead; ++k) {
      if (begin + k >= count) break;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum[i] += values[k][i];
    }
  }
  store_values(sums + c, sum);
}

/// d_table += d_x at tokens, in the order of rows: the block of the first row with a token adds all
/// rows with that token; the others find an earlier one and leave.
template <int kWidth>
__global__ void __launch_bounds__(256)
    embedding_backward_kernel(float* d_table, const float* d_x, const std::int32_t* tokens,
                              unsigned rows, std::int64_t columns) {
  follow_last_kernel();
  __shared__ unsigned found[kTokenRows], matches[kTokenRows / kWarp];
  const unsigned self = blockIdx.x;
  const std::int32_t token = tokens[self];
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  std::int32_t earlier = 0;
#pragma unroll 4
  for (unsigned r = threadIdx.x; r < self; r += blockDim.x) earlier |= tokens[r] == token;
  if (block_join(earlier, Plus()) != 0) return;

  float* const sums = d_table + token * columns;
  for (unsigned begin = self; begin < rows; begin += kTokenRows) {
    // Each 32 rows have a warp's bits; where theirs go follows from how many stand before.
    for (unsigned group = warp; group < kTokenRows / kWarp; group += blockDim.x / kWarp) {
      const unsigned r = begin + group * kWarp + lane;
      const unsigned bits = __ballot_sync(kAllLanes, r < rows && tokens[r] == token ? 1 : 0);
      if (lane == 0) matches[group] = bits;
    }
    __syncthreads();  // And the rows found before have been added.
    unsigned count = 0;
    for (unsigned group = 0; group < kTokenRows / kWarp; ++group) {
      const unsigned bits = matches[group];
      if (group % (blockDim.x / kWarp) == warp && (bits >> lane & 1u) != 0) {
        found[count + __popc(bits & ((1u << lane) - 1u))] = begin + group * kWarp + lane;
      }
      count += __popc(bits);
    }
    __syncthreads();
    if (count == 0) continue;
    for (std::int64_t c = threadIdx.x * kWidth; c < columns; c += blockDim.x * kWidth) {
      add_found<kWidth>(sums, d_x, found, count, columns, c);
    }
  }
}

/// Turns pairs of values of a row, in place, by a block of threads: each has kPairs neighbouring
/// pairs of a head, and the same of other heads, whose angles are the same.
template <typename Rows>
struct Rope {
  static constexpr int kPairs = std::is_same_v<Rows, FloatRows> ? 1 : 4;
  Rows x;
  const float *cos, *sin;
  unsigned half, heads;
  bool interleaved, inverse;

  struct Pairs {
    float a[kPairs], b[kPairs];
  };

  __device__ void operator()(std::int64_t row, std::int64_t position) const {
    const unsigned pieces = half / kPairs;
    const unsigned step = pieces < blockDim.x ? blockDim.x / pieces : 1;
    const unsigned first = threadIdx.x / pieces;
    if (first >= step) return;
    for (unsigned piece = threadIdx.x - first * pieces; piece < pieces; piece += blockDim.x) {
      const unsigned i = piece * kPairs;
      float c[kPairs], s[kPairs];
      load_values(c, cos + (position * half + i));
      load_values(s, sin + (position * half + i));
      if (inverse) {
#pragma unroll
        for (float& value : s) value = -value;
      }
      for (unsigned head = first; head < heads; head += 2 * step) {
        Pairs two[2];  // read before either is written
#pragma unroll
        for (unsigned k = 0; k < 2; ++k) {
          if (head + k * step < heads) load(two[k], row, head + k * step, i);
        }
#pragma unroll
        for (unsigned k = 0; k < 2; ++k) {
          if (head + k * step < heads) store(turned(two[k], c, s), row, head + k * step, i);
        }
      }
    }
  }

 private:
  __device__ static Pairs turned(const Pairs& from, const float (&c)[kPairs],
                                 const float (&s)[kPairs]) {
    Pairs to;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      to.a[j] = from.a[j] * c[j] - from.b[j] * s[j];
      to.b[j] = from.a[j] * s[j] + from.b[j] * c[j];
    }
    return to;
  }
  __device__ void load(Pairs& pairs, std::int64_t row, unsigned head, unsigned i) const {
    const unsigned begin = head * 2 * half;
    if (kPairs > 1 && interleaved) {
      if constexpr (kPairs > 1) {
        float both[2 * kPairs];
        load_values(both, x, row, begin + 2 * i);
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
          pairs.a[j] = both[2 * j];
          pairs.b[j] = both[2 * j + 1];
        }
      }
    } else {
      load_values(pairs.a, x, row, begin + (interleaved ? 2 * i : i));
      load_values(pairs.b, x, row, begin + (interleaved ? 2 * i + 1 : i + half));
    }
  }
  __device__ void store(const Pairs& pairs, std::int64_t row, unsigned head, unsigned i) const {
    const unsigned begin = head * 2 * half;
    if (kPairs > 1 && interleaved) {
      if constexpr (kPairs > 1) {
        float both[2 * kPairs];
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
          both[2 * j] = pairs.a[j];
          both[2 * j + 1] = pairs.b[j];
        }
        store_values(x, row, begin + 2 * i, both);
      }
    } else {
      store_values(x, row, begin + (interleaved ? 2 * i : i), pairs.a);
      store_values(x, row, begin + (interleaved ? 2 * i + 1 : i + half), pairs.b);
    }
  }
};

/// A block has a row; row r has position first_position + r % length.
template <typename Rows>
__global__ void __launch_bounds__(256)
    rope_kernel(Rope<Rows> turn, std::int64_t first_position, unsigned length) {
  follow_last_kernel();
  turn(blockIdx.x, first_position + blockIdx.x % length);
}

/// A block has a row of a span, which is a tile of its line.
template <typename Rows>
__global__ void __launch_bounds__(256)
    cached_rope_kernel(Rope<Rows> turn, Spans spans, TileOrder order) {
  follow_last_kernel();
  const auto [line, row] = order.at(blockIdx.x);
  const SequenceSpan span = spans.at(line);
  if (row < span.count) turn(span.first_row + row, span.position + row);
}

struct Swiglu {
  FloatRows h;
  SwigluSource source;
  __device__ void operator()(std::int64_t r, std::int64_t c) const {
    h.store(r, c, source.load(r, c));
  }
};

/// The outputs may lie where gate and up do.
template <typename Rows>
struct SwigluGradient {
  static constexpr int kWidth = kRowWidth<Rows>;
  Rows d_gate, d_up, d_h, gate, up;
  __device__ void operator()(std::int64_t row, std::int64_t c) const {
    float g[kWidth], u[kWidth], d[kWidth];
    load_values(g, gate, row, c);
    load_values(u, up, row, c);
    load_values(d, d_h, row, c);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float s = 1.0f / (1.0f + expf(-g[i]));
      u[i] = d[i] * u[i] * s * (1.0f + g[i] * (1.0f - s));
      d[i] = d[i] * g[i] * s;
    }
    store_values(d_gate, row, c, u);
    store_values(d_up, row, c, d);
  }
};

}  // namespace quest::cuda
