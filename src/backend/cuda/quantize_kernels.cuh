// Kernels that rotate rows and turn them into codes: one block of threads a row, one pass over
// memory. Between its sums of squares and its codes a row stays in registers; one that is longer
// than these is read twice.
#pragma once

#include <type_traits>

#include "backend/cuda/row_codes.cuh"

namespace quest::cuda {

inline constexpr int kKeptColumns = 8192;  // of a row that is rotated beyond 128

/// The most threads of a block: of elements, as many as keep kKeptColumns.
template <typename Source>
inline constexpr int kRowThreads = kWholeGroups<Source> ? 320 : kKeptColumns / kHeld;
/// How many such blocks a multiprocessor should have room for: of groups twenty warps in all, at 96
/// registers a thread; of elements sixteen.
template <typename Source>
inline constexpr int kRowBlocks = kWholeGroups<Source> ? 2 : 4;
template <>  // It would not fit.
inline constexpr int kRowBlocks<SwigluVectors<float>> = 1;

/// What a thread holds of columns [begin, begin + columns_at_once()) of a row, zeros behind its
/// end. Elements come by `kept`; all threads of the block call it.
template <typename Source>
__device__ __forceinline__ void load_part(float (&x)[kHeld], const Source& source, float* kept,
                                          std::int64_t row, int begin, int columns) {
  const int first = begin + group_of_thread();
  if constexpr (kWholeGroups<Source>) {
    if (first < columns) return source.load(x, row, first + first_held());
    clear_held(x);
  } else {
    // What was kept has been read, or is here read by the thread that writes in its place.
    for (int i = static_cast<int>(threadIdx.x); i < columns_at_once();
         i += static_cast<int>(blockDim.x)) {
      kept[i] = begin + i < columns ? source.load(row, begin + i) : 0.0f;
    }
    __syncthreads();
    load_held(x, kept + group_of_thread() + first_held());
    __syncthreads();
  }
}

/// The block's values x at their places in `kept`, for all threads.
__device__ inline void keep_part(float* kept, const float (&x)[kHeld]) {
  __syncthreads();  // What was kept has been read.
  store_held(kept + group_of_thread() + first_held(), x);
  __syncthreads();
}

/// The stages of blocks of more than 128, on a whole row that the block of threads holds.
__device__ inline void rotate_beyond_128(float (&x)[kHeld], float* kept, const RowRule& rule) {
  keep_part(kept, x);
  for (int half = kGroup; half < rule.block; half *= 2) {
    for (int i = static_cast<int>(threadIdx.x); i < rule.columns / 2;
         i += static_cast<int>(blockDim.x)) {
      const int low = i / half * 2 * half + i % half;
      const float a = kept[low], b = kept[low + half];
      kept[low] = a + b;
      kept[low + half] = a - b;
    }
    __syncthreads();
  }
  load_held(x, kept + group_of_thread() + first_held());
}

/// The transform of what the block of threads holds. Whole groups are of one block each; others may
/// have any, and need `kept` for kKeptColumns values.
template <typename Source>
__device__ __forceinline__ void rotate_part(float (&x)[kHeld], float* kept, const RowRule& rule) {
  rotate_held(x, kWholeGroups<Source> ? kGroup : rule.block);
  if constexpr (!kWholeGroups<Source>) {
    if (rule.block > kGroup) rotate_beyond_128(x, kept, rule);
  }
}

/// rows = quantization of the source's rows.
template <typename Source>
__global__ void __launch_bounds__(kRowThreads<Source>, kRowBlocks<Source>)
    quantize_rows_kernel(Source source, CodesOut out, RowRule rule) {
  follow_last_kernel();
  __shared__ float kept[kWholeGroups<Source> ? kRowThreads<Source> / kPair * kLanes : kKeptColumns];
  __shared__ CodeScale row_scale;
  __shared__ std::int32_t warp_sums[kRowThreads<Source> / kWarp];
  const std::int64_t row = blockIdx.x;
  const int columns = rule.columns, at_once = columns_at_once();
  const bool first_warp = threadIdx.x < kWarp;
  float x[kHeld];
  const auto load = [&](int begin) { load_part(x, source, kept, row, begin, columns); };
  const auto finish = [&](int begin) {
    if constexpr (kWholeGroups<Source>) {
      const int first = begin + group_of_thread();
      if (first < columns) source.finish(x, first + first_held());
    }
  };
  if constexpr (kWholeGroups<Source>) {
    load(0);
    source.begin(x, row, columns);
  } else {
    source.begin(row);
    load(0);
  }

  double square_sum = 0;  // of a lane
  int begin = 0;
  for (;;) {
    finish(begin);
    if constexpr (kWholeGroups<Source>) {
      write_squares(kept, x, kGroup, Source::kExactSquares);
    } else {
      write_squares(kept, x, rule.block, source.exact_squares());
    }
    __syncthreads();
    if (first_warp) {
      const int each = kWholeGroups<Source> ? kGroup : summed_at_once(rule.block);
      const int left = columns - begin;
      add_squares(square_sum, kept, ((left < at_once ? left : at_once) + each - 1) / each);
    }
    if (columns - begin <= at_once) break;
    begin += at_once;
    __syncthreads();
    load(begin);
  }
  if (first_warp) {
    const CodeScale scale = scale_of_row(rule, join_lanes(square_sum));
    if (threadIdx.x == 0) {
      row_scale = scale;
      out.steps[row] = scale.step;
    }
  }
  rotate_part<Source>(x, kept, rule);
  __syncthreads();

  // The last columns are those that the registers hold.
  const CodeScale scale = row_scale;
  const CodeMaker maker(rule, scale.inverse_step);
  std::int32_t sum = 0;
  for (;;) {
    if (scale.step != scale.step) clear_held(x);
    const int first = begin + group_of_thread();
    if (out.mask != nullptr) {
      write_mask<Source>(out.mask + row * out.mask_stride, x, scale.limit, first, columns);
    }
    sum += write_codes<Source>(out.codes + row * out.code_stride, x, maker, first, columns);
    if (begin == 0) break;
    begin -= at_once;
    load(begin);
    finish(begin);
    rotate_part<Source>(x, kept, rule);
  }
  sum = warp_join(sum, Plus());
  if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (unsigned warp = 1; warp < blockDim.x / kWarp; ++warp) sum += warp_sums[warp];
  out.code_sums[row] = sum;
}

/// The row's columns at `begin` (= or +=) x times `scale`; `Rows` is TypedRows for whole groups,
/// FloatRows for others.
template <typename Source, typename Rows>
__device__ __forceinline__ void write_part(const Rows& out, float (&x)[kHeld], float* kept,
                                           std::int64_t row, int begin, int columns, float scale,
                                           bool add) {
  if constexpr (kWholeGroups<Source>) {
    const int first = begin + group_of_thread();
    if (first >= columns) return;
    auto* const to = out.data + row * out.stride + first + first_held();
    if (add) {
#pragma unroll
      for (int i = 0; i < kHeld; i += kNeighbours) {
        float sums[kNeighbours];
        load_values(sums, to + place_of(i));
#pragma unroll
        for (int k = 0; k < kNeighbours; ++k) sums[k] = sums[k] + x[i + k] * scale;
        store_values(to + place_of(i), sums);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) x[i] = x[i] * scale;
      store_held(to, x);
    }
  } else {
    keep_part(kept, x);
    for (int i = static_cast<int>(threadIdx.x); i < columns_at_once() && begin + i < columns;
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
  __shared__ float kept[kWholeGroups<Source> ? 1 : kKeptColumns];
  const std::int64_t row = blockIdx.x;
  for (int begin = 0; begin < rule.columns; begin += columns_at_once()) {
    float x[kHeld];
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
  __shared__ float kept[kKeptColumns];
  const std::int64_t row = blockIdx.x;
  const double step = rows.steps[row];
  double masked = 0, errors = 0, squares = 0;
  for (int begin = 0; begin < rule.columns; begin += columns_at_once()) {
    float x[kHeld];
    load_part(x, source, kept, row, begin, rule.columns);
    rotate_part<Source>(x, kept, rule);
    keep_part(kept, x);
    for (int i = static_cast<int>(threadIdx.x); i < columns_at_once() && begin + i < rule.columns;
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
