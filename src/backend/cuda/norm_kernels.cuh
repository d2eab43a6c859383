// Kernels of RMSNorm and its gradient.
#pragma once

#include <type_traits>

#include "backend/cuda/row_sources.cuh"
#include "backend/cuda/row_vectors.cuh"
#include "core/bfloat16.h"

namespace quest::cuda {

/// y and rstd of a row: one block of threads.
__global__ void __launch_bounds__(256) rmsnorm_kernel(FloatRows y, NormSource source) {
  follow_last_kernel();
  const std::int64_t row = blockIdx.x;
  source.begin(row);
  for (std::int64_t c = threadIdx.x; c < source.columns; c += blockDim.x) {
    y.store(row, c, source.load(row, c));
  }
}

/// The gradient of the norm, and sums of its weight's gradient over `run` rows a block.
template <typename Rows>
struct NormGradient {
  /// Rows that lie in registers from their sum to their gradient, 8 values a thread; others are
  /// read twice, one value after the other.
  static constexpr bool kHeld = !std::is_same_v<Rows, FloatRows>;
  static constexpr int kWidth = kHeld ? 4 : 1;
  static constexpr int kPieces = kHeld ? 2 : 1;
  static constexpr std::int64_t kHeldColumns = kWidth * kPieces;  ///< a thread

  Rows d_y;
  float* d_x;
  BFloat16* rounded;  ///< null: none
  float* parts;       ///< [blocks][columns]
  const float *x, *weight, *rstd;
  std::int64_t rows, run;
  unsigned columns;
};

/// What a thread knows of neighbouring values of a row.
template <int kWidth>
struct NormPiece {
  float d_y[kWidth], normalized[kWidth], d_x[kWidth], weight[kWidth];
};

/// take(piece, column) of a thread's pieces of a row.
template <typename Gradient, typename Take>
__device__ __forceinline__ void for_pieces(unsigned columns, const Take& take) {
  if constexpr (Gradient::kHeld) {
#pragma unroll
    for (unsigned p = 0; p < Gradient::kPieces; ++p) {
      const unsigned c = (p * blockDim.x + threadIdx.x) * Gradient::kWidth;
      if (c < columns) take(p, c);
    }
  } else {
    for (unsigned c = threadIdx.x; c < columns; c += blockDim.x) take(0u, c);
  }
}

template <typename Rows>
__device__ __forceinline__ void load_piece(NormPiece<NormGradient<Rows>::kWidth>& piece,
                                           const NormGradient<Rows>& g, std::int64_t row,
                                           unsigned c, float inverse) {
  load_values(piece.normalized, g.x + (row * g.columns + c));
  load_values(piece.d_y, g.d_y, row, c);
  load_values(piece.d_x, g.d_x + (row * g.columns + c));
#pragma unroll
  for (float& value : piece.normalized) value *= inverse;
}

/// d_x += ..., rounded = d_x, and the block's row of parts = sums of d_y * normalized x.
template <typename Rows>
__global__ void __launch_bounds__(1024) rmsnorm_backward_kernel(NormGradient<Rows> g) {
  follow_last_kernel();
  using Gradient = NormGradient<Rows>;
  constexpr int kWidth = Gradient::kWidth;
  NormPiece<kWidth> pieces[Gradient::kPieces];
  float sums[Gradient::kPieces][kWidth] = {};
  float* const part = g.parts + std::int64_t{blockIdx.x} * g.columns;
  if constexpr (Gradient::kHeld) {
    for_pieces<Gradient>(
        g.columns, [&](unsigned p, unsigned c) { load_values(pieces[p].weight, g.weight + c); });
  }
  const std::int64_t begin = blockIdx.x * g.run;
  for (std::int64_t row = begin; row < g.rows && row < begin + g.run; ++row) {
    const float inverse = g.rstd[row];
    float projection = 0.0f;  // mean of d_y * weight * normalized x
    for_pieces<Gradient>(g.columns, [&](unsigned p, unsigned c) {
      NormPiece<kWidth>& piece = pieces[p];
      load_piece(piece, g, row, c, inverse);
      if (!Gradient::kHeld) load_values(piece.weight, g.weight + c);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        projection = fmaf(piece.d_y[i] * piece.weight[i], piece.normalized[i], projection);
      }
    });
    projection = block_join(projection, Plus()) / static_cast<float>(g.columns);
    for_pieces<Gradient>(g.columns, [&](unsigned p, unsigned c) {
      NormPiece<kWidth>& piece = pieces[p];
      if (!Gradient::kHeld) {
        load_piece(piece, g, row, c, inverse);
        load_values(piece.weight, g.weight + c);
        sums[p][0] = row == begin ? 0.0f : part[c];
      }
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        sums[p][i] = fmaf(piece.d_y[i], piece.normalized[i], sums[p][i]);
        const float slope = piece.d_y[i] * piece.weight[i] - piece.normalized[i] * projection;
        piece.d_x[i] = fmaf(inverse, slope, piece.d_x[i]);
      }
      const std::int64_t at = row * g.columns + c;
      store_values(g.d_x + at, piece.d_x);
      if (g.rounded != nullptr) {
        store_values(reinterpret_cast<std::uint16_t*>(g.rounded) + at, piece.d_x);
      }
      if (!Gradient::kHeld) part[c] = sums[p][0];
    });
  }
  if constexpr (Gradient::kHeld) {
    for_pieces<Gradient>(g.columns,
                         [&](unsigned p, unsigned c) { store_values(part + c, sums[p]); });
  }
}

/// Threads of a block of `add_rows_kernel`; a warp of it has kWarp columns of some rows.
inline constexpr unsigned kAddThreads = 1024;

/// out[c] += parts[0][c] + parts[1][c] + ...: each warp adds every 32nd row, then these sums are
/// added in order.
__global__ void __launch_bounds__(kAddThreads)
    add_rows_kernel(float* out, const float* parts, unsigned rows, unsigned columns) {
  follow_last_kernel();
  constexpr unsigned kWarps = kAddThreads / kWarp;
  __shared__ float sums[kWarps][kWarp];
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const unsigned c = blockIdx.x * kWarp + lane;
  float sum = 0.0f;
  if (c < columns) {
#pragma unroll 4
    for (unsigned r = warp; r < rows; r += kWarps) sum += parts[std::int64_t{r} * columns + c];
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || c >= columns) return;
#pragma unroll
  for (unsigned other = 1; other < kWarps; ++other) sum += sums[other][lane];
  out[c] += sum;
}

}  // namespace quest::cuda
