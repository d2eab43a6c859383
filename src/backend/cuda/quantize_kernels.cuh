// Kernels that rotate rows and turn them into codes: one block of threads a row.
#pragma once

#include <type_traits>

#include "backend/cuda/quantize_row.cuh"

namespace quest::cuda {

/// rows = quantization of the source's rows; masks only where a thread holds kWide values.
template <typename Source, int kHeld>
__global__ void __launch_bounds__(kRowThreads<Source, kHeld>,
                                  kHeld == kWide ? kRowBlocks<Source> : 1)
    quantize_rows_kernel(Source source, CodesOut out, RowRule rule) {
  follow_last_kernel();
  const std::int64_t row = blockIdx.x;
  const RowOut to{out.codes + row * out.code_stride, out.steps + row, out.code_sums + row,
                  out.mask == nullptr ? nullptr : out.mask + row * out.mask_stride};
  quantize_row<Source, kHeld>(source, row, to, rule);
}

/// The row's columns at `begin` (= or +=) x times `scale`; `Rows` is TypedRows for whole groups,
/// FloatRows for others.
template <typename Source, typename Rows>
__device__ __forceinline__ void write_part(const Rows& out, float (&x)[kWide], float* kept,
                                           std::int64_t row, int begin, int columns, float scale,
                                           bool add) {
  if constexpr (kWholeGroups<Source>) {
    const int first = begin + group_of_thread<kWide>();
    if (first >= columns) return;
    auto* const to = out.data + row * out.stride + first + first_held<kWide>();
    if (add) {
      constexpr int kCount = kNeighbours<kWide>;
#pragma unroll
      for (int i = 0; i < kWide; i += kCount) {
        float sums[kCount];
        load_values(sums, to + place_of<kWide>(i));
#pragma unroll
        for (int k = 0; k < kCount; ++k) sums[k] = sums[k] + x[i + k] * scale;
        store_values(to + place_of<kWide>(i), sums);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kWide; ++i) x[i] = x[i] * scale;
      store_held(to, x);
    }
  } else {
    keep_part(kept, x);
    for (int i = static_cast<int>(threadIdx.x); i < columns_at_once<kWide>() && begin + i < columns;
         i += static_cast<int>(blockDim.x)) {
      out.write(row, begin + i, kept[i] * scale, add);
    }
  }
}

/// out (= or +=) rotation of the source's rows, times `scale`.
template <typename Source, typename Rows>
__global__ void __launch_bounds__(kRowThreads<Source>,
                                  std::is_same_v<Rows, TypedRows<float>> ? 1 : kRowBlocks<Source>)
    rotate_rows_kernel(Source source, Rows out, RowRule rule, float scale, bool add) {
  follow_last_kernel();
  __shared__ __align__(16) float kept[kWholeGroups<Source> ? 1 : kKeptColumns];
  const std::int64_t row = blockIdx.x;
  for (int begin = 0; begin < rule.columns; begin += columns_at_once<kWide>()) {
    float x[kWide];
    load_part(x, source, kept, row, begin, rule.columns);
    rotate_part<Source>(x, kept, rule);
    write_part<Source>(out, x, kept, row, begin, rule.columns, scale, add);
  }
}

/// parts[row] = {masked-out values, sum of squared errors, sum of squares} of a row.
template <typename Source>
__global__ void __launch_bounds__(kRowThreads<Source>)
    quantization_error_kernel(Source source, CodesOut rows, RowRule rule, float scale,
                              double* parts) {
  follow_last_kernel();
  __shared__ __align__(16) float kept[kKeptColumns];
  const std::int64_t row = blockIdx.x;
  const double step = rows.steps[row];
  double masked = 0, errors = 0, squares = 0;
  for (int begin = 0; begin < rule.columns; begin += columns_at_once<kWide>()) {
    float x[kWide];
    load_part(x, source, kept, row, begin, rule.columns);
    rotate_part<Source>(x, kept, rule);
    keep_part(kept, x);
    for (int i = static_cast<int>(threadIdx.x);
         i < columns_at_once<kWide>() && begin + i < rule.columns;
         i += static_cast<int>(blockDim.x)) {
      const int column = begin + i;
      const double z = double{kept[i]} * scale;
      const double error = (rows.codes[row * rows.code_stride + column] + 0.5) * step - z;
      const bool passes = rows.mask == nullptr ||
                          (rows.mask[row * rows.mask_stride + column / 8] >> column % 8 & 1) != 0;
      masked += passes ? 0 : 1;
      errors += error * error;
      squares += z * z;
    }
  }
  masked = block_join(masked, Plus());
  errors = block_join(errors, Plus());
  squares = block_join(squares, Plus());
  if (threadIdx.x == 0) {
    parts[3 * row] = masked;
    parts[3 * row + 1] = errors;
    parts[3 * row + 2] = squares;
  }
}

}  // namespace quest::cuda
