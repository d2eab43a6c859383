// Kernels that rotate rows and turn them into codes: one block of threads a row, one pass over
// memory. Between its sums of squares and its codes a row stays in registers; one that is longer
// than these is read twice.
#pragma once

#include <type_traits>

#include "backend/cuda/row_sources.cuh"

namespace quest::cuda {

inline constexpr std::int64_t kKeptColumns = 8192;  // of a row that is rotated beyond 128

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

/// How the threads of a kernel hold the rows of its source.
template <typename Source>
struct HeldAs {
  static constexpr bool kWhole = false;
  static constexpr int kNeighbours = 4;
  static constexpr int kThreads = kKeptColumns / kHeld;
};
template <VectorSource Source>
struct HeldAs<Source> {
  static constexpr bool kWhole = true;
  static constexpr int kNeighbours = Source::kNeighbours;
  static constexpr int kThreads = 512;
};

/// What a thread holds of columns [begin, begin + columns_at_once()) of a row, zeros behind its
/// end. Elements come by `kept`; all threads of the block call it.
template <typename Source>
__device__ __forceinline__ void load_part(float (&x)[kHeld], const Source& source, float* kept,
                                          std::int64_t row, int begin, int columns) {
  using As = HeldAs<Source>;
  const int first = begin + group_of_thread();
  if constexpr (As::kWhole) {
    if (first < columns) return source.load(x, row, first + first_held<As::kNeighbours>());
    clear_held(x);
  } else {
    __syncthreads();  // What was kept has been read.
    for (int i = static_cast<int>(threadIdx.x); i < columns_at_once();
         i += static_cast<int>(blockDim.x)) {
      kept[i] = begin + i < columns ? source.load(row, begin + i) : 0.0f;
    }
    __syncthreads();
    load_held<As::kNeighbours>(x, kept + group_of_thread() + first_held<As::kNeighbours>());
    __syncthreads();
  }
}

/// The block's values x at their places in `kept`, for all threads.
template <int kNeighbours>
__device__ inline void keep_part(float* kept, const float (&x)[kHeld]) {
  __syncthreads();  // What was kept has been read.
  store_held<kNeighbours>(kept + group_of_thread() + first_held<kNeighbours>(), x);
  __syncthreads();
}

/// The stages of blocks of more than 128, on a whole row that the block of threads holds.
template <int kNeighbours>
__device__ inline void rotate_beyond_128(float (&x)[kHeld], float* kept, const RowRule& rule) {
  keep_part<kNeighbours>(kept, x);
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
  load_held<kNeighbours>(x, kept + group_of_thread() + first_held<kNeighbours>());
}

/// The transform of what the block of threads holds. Whole groups are of one block each; others may
/// have any, and need `kept` for kKeptColumns values.
template <typename Source>
__device__ __forceinline__ void rotate_part(float (&x)[kHeld], float* kept, const RowRule& rule) {
  using As = HeldAs<Source>;
  rotate_held<As::kNeighbours>(x, As::kWhole ? kGroup : rule.block);
  if constexpr (!As::kWhole) {
    if (rule.block > kGroup) rotate_beyond_128<As::kNeighbours>(x, kept, rule);
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

/// floor(z inverse_step) between two codes, in the low byte of each. Near 1.5 * 2^23 floats are the
/// whole numbers, so a sum there that is rounded down is a floor.
struct CodeMaker {
  static constexpr float kOrigin = 12582912.0f;
  float inverse_step, low, high;

  __device__ CodeMaker(const RowRule& rule, float inverse)
      : inverse_step(inverse),
        low(kOrigin + static_cast<float>(rule.min_code)),
        high(kOrigin + static_cast<float>(rule.max_code)) {}
  __device__ __forceinline__ unsigned code(float z) const {
    return __float_as_uint(fminf(fmaxf(__fadd_rd(z * inverse_step, kOrigin), low), high));
  }
  /// Four codes in a word.
  __device__ __forceinline__ unsigned four(const float* z) const {
    return __byte_perm(__byte_perm(code(z[0]), code(z[1]), 0x0040u),
                       __byte_perm(code(z[2]), code(z[3]), 0x0040u), 0x5410u);
  }
};

/// Writes the codes of rotated values of the group at column `first`; returns their sum.
template <typename Source>
__device__ __forceinline__ std::int32_t write_codes(std::int8_t* codes, const float (&z)[kHeld],
                                                    const CodeMaker& maker, int first,
                                                    int columns) {
  using As = HeldAs<Source>;
  constexpr int kNeighbours = As::kNeighbours;
  const int at = first + first_held<kNeighbours>();
  std::int32_t sum = 0;
#pragma unroll
  for (int i = 0; i < kHeld; i += kNeighbours) {
    unsigned words[kNeighbours / 4];
#pragma unroll
    for (int k = 0; k < kNeighbours / 4; ++k) {
      words[k] = maker.four(z + i + 4 * k);
      sum = __dp4a(static_cast<int>(words[k]), 0x01010101, sum);
    }
    const int column = at + place_of<kNeighbours>(i);
    if constexpr (!As::kWhole) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (column + k < columns) codes[column + k] = static_cast<std::int8_t>(words[0] >> 8 * k);
      }
    } else if constexpr (kNeighbours == 8) {
      if (first < columns)
        *reinterpret_cast<uint2*>(codes + column) = make_uint2(words[0], words[1]);
    } else {
      if (first < columns) *reinterpret_cast<unsigned*>(codes + column) = words[0];
    }
  }
  return sum;
}

/// Writes the mask of the group at column `first`: |z| <= limit. All threads of the warp call it.
template <typename Source>
__device__ __forceinline__ void write_mask(std::uint8_t* mask, const float (&z)[kHeld], float limit,
                                           int first, int columns) {
  using As = HeldAs<Source>;
  unsigned beyond = 0;
#pragma unroll
  for (int i = kHeld - 1; i >= 0; --i) {
    beyond = __funnelshift_l(__float_as_uint(limit - fabsf(z[i])), beyond, 1);
  }
  unsigned word = mask_in_order<As::kNeighbours>(~beyond);
  const int at = first + 32 * static_cast<int>(quad_thread());
  if (at >= columns) return;
  if constexpr (As::kWhole) {
    *reinterpret_cast<unsigned*>(mask + at / 8) = word;
  } else {
    const int left = columns - at;
    if (left < 32) word &= (1u << left) - 1u;
    for (int i = 0; i < 4 && 8 * i < left; ++i) {
      mask[at / 8 + i] = static_cast<std::uint8_t>(word >> 8 * i);
    }
  }
}

// --- Kernels ---

/// rows = quantization of the source's rows.
template <typename Source>
__global__ void __launch_bounds__(HeldAs<Source>::kThreads, 1024 / HeldAs<Source>::kThreads)
    quantize_rows_kernel(Source source, CodesOut out, RowRule rule) {
  using As = HeldAs<Source>;
  __shared__ float kept[As::kWhole ? As::kThreads / kQuad * kLanes : kKeptColumns];
  __shared__ CodeScale row_scale;
  __shared__ std::int32_t warp_sums[As::kThreads / kWarp];
  const std::int64_t row = blockIdx.x;
  const int columns = rule.columns, at_once = columns_at_once();
  const bool first_warp = threadIdx.x < kWarp;
  float x[kHeld];
  const auto load = [&](int begin) { load_part(x, source, kept, row, begin, columns); };
  const auto finish = [&](int begin) {
    if constexpr (As::kWhole) {
      const int first = begin + group_of_thread();
      if (first < columns) source.finish(x, first + first_held<As::kNeighbours>());
    }
  };
  if constexpr (As::kWhole) {
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
    if constexpr (As::kNeighbours == 8) {
      write_exact_squares(kept, x);
    } else if constexpr (As::kWhole) {
      write_squares(kept, x, kGroup, false);
    } else {
      write_squares(kept, x, rule.block, source.exact_squares());
    }
    __syncthreads();
    if (first_warp) {
      const int each = As::kWhole ? kGroup : summed_at_once(rule.block);
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
__device__ __forceinline__ void write_part(const Rows& out, const float (&x)[kHeld], float* kept,
                                           std::int64_t row, int begin, int columns, float scale,
                                           bool add) {
  constexpr int kNeighbours = HeldAs<Source>::kNeighbours;
  if constexpr (HeldAs<Source>::kWhole) {
    const int first = begin + group_of_thread();
    if (first >= columns) return;
    auto* const to = out.data + row * out.stride + first + first_held<kNeighbours>();
#pragma unroll
    for (int i = 0; i < kHeld; i += kNeighbours) {
      float sums[kNeighbours] = {};
      if (add) load_values(sums, to + place_of<kNeighbours>(i));
#pragma unroll
      for (int k = 0; k < kNeighbours; ++k) {
        const float scaled = x[i + k] * scale;
        sums[k] = add ? sums[k] + scaled : scaled;
      }
      store_values(to + place_of<kNeighbours>(i), sums);
    }
  } else {
    keep_part<kNeighbours>(kept, x);
    for (int i = static_cast<int>(threadIdx.x); i < columns_at_once() && begin + i < columns;
         i += static_cast<int>(blockDim.x)) {
      out.write(row, begin + i, kept[i] * scale, add);
    }
  }
}

/// out (= or +=) rotation of the source's rows, times `scale`.
template <typename Source, typename Rows>
__global__ void __launch_bounds__(HeldAs<Source>::kThreads)
    rotate_rows_kernel(Source source, Rows out, RowRule rule, float scale, bool add) {
  __shared__ float kept[HeldAs<Source>::kWhole ? 1 : kKeptColumns];
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
__global__ void __launch_bounds__(HeldAs<Source>::kThreads)
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
    keep_part<HeldAs<Source>::kNeighbours>(kept, x);
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
