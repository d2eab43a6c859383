// Kernels that rotate rows and turn them into codes: one block of threads a row, one pass over
// memory. Between its sums of squares and its codes a row stays in registers; one that is longer
// than these is read twice.
#pragma once

#include <type_traits>

#include "backend/cuda/row_sources.cuh"

namespace quest::cuda {

inline constexpr int kKeptColumns = 8192;       // of a row that is rotated beyond 128
inline constexpr int kMostColumns = 128 << 10;  // of a row that is quantized by whole groups

/// RowQuantizer, and what does not depend on the row.
struct RowRule {
  double alpha, kappa, epsilon;
  double trusted;  ///< levels / (levels - 1)
  double inverse_columns, steps_per_clip_point, scale, inverse_scale;
  int mask;  ///< of Estimator
  std::int32_t min_code, max_code;
  int columns, block;
};

/// Where codes and what belongs to them go.
struct CodesOut {
  std::int8_t* codes;
  float* steps;
  std::int32_t* code_sums;
  std::uint8_t* mask;  ///< null: none
  std::int64_t code_stride, mask_stride;
};

/// Whether the source takes whole groups, of one block each.
template <typename Source>
inline constexpr bool kWholeGroups = VectorSource<Source>;
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
    __syncthreads();  // What was kept has been read.
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

// --- Scale ---

/// The numbers that turn a rotated row, still without its factor 1/sqrt(block), into codes.
struct CodeScale {
  float inverse_step;
  float limit;  ///< the mask passes |z| <= limit
  float step;   ///< NaN for a broken row
};

__device__ inline double mask_bound(const RowRule& rule, double rms) {
  const double outermost = rule.alpha * rms;
  if (rule.mask == static_cast<int>(Estimator::kClip)) {
    return rule.kappa * (outermost + rule.epsilon);
  }
  if (rule.mask == static_cast<int>(Estimator::kSte)) return HUGE_VAL;
  return outermost > rule.epsilon ? outermost * rule.trusted : -1.0;
}

__device__ inline CodeScale scale_of_row(const RowRule& rule, double square_sum) {
  const double mean_square = square_sum * rule.inverse_columns;
  if (!(mean_square <= 3.4e38)) return {0.0f, -1.0f, nanf("")};
  const double rms = sqrt(mean_square);
  const double step = rule.steps_per_clip_point * (rule.alpha * rms + rule.epsilon);
  return {static_cast<float>(rule.scale / step),
          static_cast<float>(mask_bound(rule, rms) * rule.inverse_scale), static_cast<float>(step)};
}

/// total += the sums of squares of a lane, in double, in the order of columns.
__device__ __forceinline__ void add_squares(double& total, const float* sums, int count) {
  const float* const own = sums + threadIdx.x % kLanes;
#pragma unroll 8
  for (int i = 0; i < count; ++i) total += double{own[i * kLanes]};
}

/// The sum over the 16 lanes, as a tree; every half of the warp has them all.
__device__ __forceinline__ double join_lanes(double sum) {
  for (int half = kLanes / 2; half >= 1; half /= 2) sum += __shfl_xor_sync(kAllLanes, sum, half);
  return sum;
}

// --- Codes and mask ---

/// floor(z inverse_step) between two codes, in bytes. Near 1.5 * 2^23 floats are the whole numbers,
/// so a sum there that is rounded down is a floor. From kOrigin on its lower half is 1.0 of 16 bits
/// for code 0 (a low byte of 0), and rises and falls with the code; kFarthest steps away it is
/// still a float of 16 bits above 0. Rows of up to kMostColumns hold nothing that is further: the
/// largest value is at most sqrt(columns) rms.
struct CodeMaker {
  static constexpr float kOrigin = 12582912.0f + 0x3c00;
  static constexpr float kFarthest = 15000.0f;
  float inverse_step;
  unsigned low, high;  // the halves of the least and the largest code, twice

  __device__ CodeMaker(const RowRule& rule, float inverse)
      : inverse_step(inverse),
        low(0x10001u * static_cast<unsigned>(0x3c00 + rule.min_code)),
        high(0x10001u * static_cast<unsigned>(0x3c00 + rule.max_code)) {}
  template <bool kAnyRow>
  __device__ __forceinline__ unsigned half(float z) const {
    float steps = z * inverse_step;
    if constexpr (kAnyRow) steps = fminf(fmaxf(steps, -kFarthest), kFarthest);
    return __float_as_uint(__fadd_rd(steps, kOrigin));
  }
  template <bool kAnyRow>
  __device__ __forceinline__ unsigned two(const float* z) const {
    const unsigned both = __byte_perm(half<kAnyRow>(z[0]), half<kAnyRow>(z[1]), 0x5410u);
    return lesser_halves(larger_halves(both, low), high);
  }
  /// Four codes in a word; kAnyRow: of a row of any length.
  template <bool kAnyRow>
  __device__ __forceinline__ unsigned four(const float* z) const {
    return __byte_perm(two<kAnyRow>(z), two<kAnyRow>(z + 2), 0x6420u);
  }
};

/// Writes the codes of rotated values of the group at column `first`; returns their sum.
template <typename Source>
__device__ __forceinline__ std::int32_t write_codes(std::int8_t* codes, const float (&z)[kHeld],
                                                    const CodeMaker& maker, int first,
                                                    int columns) {
  std::int8_t* const to = codes + first + first_held();
  std::int32_t sum = 0;
#pragma unroll
  for (int i = 0; i < kHeld; i += kNeighbours) {
    constexpr bool kAnyRow = !kWholeGroups<Source>;
    const unsigned words[2] = {maker.four<kAnyRow>(z + i), maker.four<kAnyRow>(z + i + 4)};
    sum = __dp4a(static_cast<int>(words[0]), 0x01010101, sum);
    sum = __dp4a(static_cast<int>(words[1]), 0x01010101, sum);
    if constexpr (kWholeGroups<Source>) {
      if (first < columns) {
        *reinterpret_cast<uint2*>(to + place_of(i)) = make_uint2(words[0], words[1]);
      }
    } else {
      const int left = columns - first - first_held() - place_of(i);
#pragma unroll
      for (int k = 0; k < kNeighbours; ++k) {
        if (k < left) {
          to[place_of(i) + k] = static_cast<std::int8_t>(words[k / 4] >> 8 * (k % 4) & 0xffu);
        }
      }
    }
  }
  return sum;
}

/// The bits of the thread's values i .. i + 31 that lie beyond `limit`, from the lowest on.
__device__ __forceinline__ unsigned beyond(const float* z, float limit) {
  unsigned bits = 0;
#pragma unroll
  for (int i = 31; i >= 0; --i) {
    bits = __funnelshift_l(__float_as_uint(limit - fabsf(z[i])), bits, 1);
  }
  return bits;
}

/// Writes the mask of the group at column `first`: |z| <= limit. All threads of the warp call it.
template <typename Source>
__device__ __forceinline__ void write_mask(std::uint8_t* mask, const float (&z)[kHeld], float limit,
                                           int first, int columns) {
  const uint2 words = mask_in_order(make_uint2(~beyond(z, limit), ~beyond(z + 32, limit)));
  const int at = first + (second_of_pair() ? kHeld : 0);
  if (at >= columns) return;
  if constexpr (kWholeGroups<Source>) {
    *reinterpret_cast<uint2*>(mask + at / 8) = words;
  } else {
    const int left = columns - at;
    std::uint64_t bits = words.x | std::uint64_t{words.y} << 32;
    if (left < 64) bits &= (std::uint64_t{1} << left) - 1;
    for (int i = 0; i < 8 && 8 * i < left; ++i) {
      mask[at / 8 + i] = static_cast<std::uint8_t>(bits >> 8 * i & 0xffu);
    }
  }
}

// --- Kernels ---

/// rows = quantization of the source's rows.
template <typename Source>
__global__ void __launch_bounds__(kRowThreads<Source>, kRowBlocks<Source>)
    quantize_rows_kernel(Source source, CodesOut out, RowRule rule) {
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
