// How a block of threads rotates a row and turns it into codes in one pass over memory: between its
// sums of squares and its codes a row stays in registers; one that is longer than these is read
// twice.
#pragma once

#include "backend/cuda/row_codes.cuh"

namespace quest::cuda {

inline constexpr int kKeptColumns = 8192;  // of a row that is rotated beyond 128

/// Values of a group that a thread holds where few rows are waited for: as few as let the threads
/// of a block hold all of a row of the sizes that models have.
template <typename Source>
inline constexpr int kFewHeld = 8;
template <typename T>  // A hidden layer is some 2.7 times as wide as the others.
inline constexpr int kFewHeld<SwigluVectors<T>> = 16;

/// The most threads of a block: of elements, as many as keep kKeptColumns.
template <typename Source, int kHeld = kWide>
inline constexpr int kRowThreads = !kWholeGroups<Source> ? kKeptColumns / kHeld
                                   : kHeld == kWide      ? 320
                                                         : 512;
/// How many such blocks a multiprocessor should have room for: of groups twenty warps in all, at 96
/// registers a thread; of elements sixteen.
template <typename Source>
inline constexpr int kRowBlocks = kWholeGroups<Source> ? 2 : 4;
template <>  // It would not fit.
inline constexpr int kRowBlocks<SwigluVectors<float>> = 1;

/// What a thread holds of columns [begin, begin + columns_at_once()) of a row, zeros behind its
/// end. Elements come by `kept`; all threads of the block call it.
template <typename Source, int kHeld>
__device__ __forceinline__ void load_part(float (&x)[kHeld], const Source& source, float* kept,
                                          std::int64_t row, int begin, int columns) {
  const int own = group_of_thread<kHeld>(), first = begin + own;
  if constexpr (kWholeGroups<Source>) {
    if (first < columns) return source.load(x, row, first + first_held<kHeld>());
    clear_held(x);
  } else {
    // What was kept has been read, or is here read by the thread that writes in its place.
    for (int i = static_cast<int>(threadIdx.x); i < columns_at_once<kHeld>();
         i += static_cast<int>(blockDim.x)) {
      kept[i] = begin + i < columns ? source.load(row, begin + i) : 0.0f;
    }
    __syncthreads();
    load_held(x, kept + own + first_held<kHeld>());
    __syncthreads();
  }
}

/// The block's values x at their places in `kept`, for all threads.
__device__ inline void keep_part(float* kept, const float (&x)[kWide]) {
  __syncthreads();  // What was kept has been read.
  store_held(kept + group_of_thread<kWide>() + first_held<kWide>(), x);
  __syncthreads();
}

/// The stages of blocks of more than 128, on a whole row that the block of threads holds.
__device__ inline void rotate_beyond_128(float (&x)[kWide], float* kept, const RowRule& rule) {
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
  load_held(x, kept + group_of_thread<kWide>() + first_held<kWide>());
}

/// The transform of what the block of threads holds. Whole groups are of one block each; others may
/// have any, and need `kept` for kKeptColumns values.
template <typename Source, int kHeld>
__device__ __forceinline__ void rotate_part(float (&x)[kHeld], float* kept, const RowRule& rule) {
  rotate_held(x, kWholeGroups<Source> ? kGroup : rule.block);
  if constexpr (!kWholeGroups<Source>) {
    if (rule.block > kGroup) rotate_beyond_128(x, kept, rule);
  }
}

/// Where a row's codes and what belongs to them go.
struct RowOut {
  std::int8_t* codes;
  float* step;
  std::int32_t* code_sum;
  std::uint8_t* mask;  ///< null: none
};

/// `out` = quantization of a row of the source. All threads of the block call it; what it wrote is
/// there for them after a barrier.
template <typename Source, int kHeld>
__device__ __forceinline__ void quantize_row(Source& source, std::int64_t row, const RowOut& out,
                                             const RowRule& rule) {
  constexpr int kMost = kRowThreads<Source, kHeld>;
  static_assert(kMost * kHeld / kGroup <= kMostGroups);
  __shared__ __align__(
      16) float kept[kWholeGroups<Source> ? kMost / kSharers<kHeld> * kLanes : kKeptColumns];
  __shared__ CodeScale row_scale;
  __shared__ std::int32_t warp_sums[kMost / kWarp];
  const int columns = rule.columns, at_once = columns_at_once<kHeld>();
  const bool first_warp = threadIdx.x < kWarp;
  float x[kHeld];
  const auto load = [&](int begin) { load_part(x, source, kept, row, begin, columns); };
  const auto finish = [&](int begin) {
    if constexpr (kWholeGroups<Source>) {
      const int first = begin + group_of_thread<kHeld>();
      if (first < columns) source.finish(x, first + first_held<kHeld>());
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
      *out.step = scale.step;
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
    const int first = begin + group_of_thread<kHeld>();
    if constexpr (kHeld == kWide) {
      if (out.mask != nullptr) write_mask<Source>(out.mask, x, scale.limit, first, columns);
    }
    sum += write_codes<Source>(out.codes, x, maker, first, columns);
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
  *out.code_sum = sum;
}

}  // namespace quest::cuda
