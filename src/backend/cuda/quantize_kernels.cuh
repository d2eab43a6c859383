// Kernels that rotate rows and turn them into codes: one block of threads a row, one pass over
// memory.
//
// Sixteen threads transform a group of kVectors * 16 values: thread l holds the values l, l + 16,
// ... of it, so the transform is additions in registers and four shuffles. The order of all
// operations is that of the CPU's kernels (cpu/quantized/quantize_rows.inc.h), so codes, steps and
// masks are the same bits there and here.
#pragma once

#include "backend/cuda/row_sources.cuh"

namespace quest::cuda {

inline constexpr std::int64_t kLanes = 16;
inline constexpr std::int64_t kMostGroups = 16;     // that a block of threads transforms at once
inline constexpr std::int64_t kKeptColumns = 8192;  // rotated values that a block keeps

/// RowQuantizer, and what does not depend on the row.
struct RowRule {
  double alpha, kappa, epsilon;
  int mask;  ///< of Estimator
  std::int32_t min_code, max_code;
  std::int64_t columns, block;
};

/// Where codes and what belongs to them go.
struct CodesOut {
  std::int8_t* codes;
  float* steps;
  std::int32_t* code_sums;
  std::uint8_t* mask;  ///< null: none
  std::int64_t code_stride, mask_stride;
};

/// The transform of one group, unnormalized; `lanes` below 16 means blocks of that size.
template <int kVectors>
__device__ void rotate_group(float (&x)[kVectors], std::int64_t lanes) {
  for (int half = kVectors / 2; half >= 1; half /= 2) {
    for (int i = 0; i < kVectors; ++i) {
      if ((i & half) != 0) continue;
      const float sum = x[i] + x[i + half];
      x[i + half] = x[i] - x[i + half];
      x[i] = sum;
    }
  }
  for (int half = 1; half < lanes; half *= 2) {
    for (int i = 0; i < kVectors; ++i) {
      const float other = __shfl_xor_sync(kAllLanes, x[i], half);
      x[i] = (threadIdx.x & static_cast<unsigned>(half)) != 0 ? other - x[i] : x[i] + other;
    }
  }
}

/// Of a thread's values, in the CPU's order: exact squares in two sums, of every second value.
template <int kVectors>
__device__ float sum_of_squares(const float (&x)[kVectors], bool exact) {
  float sum = x[0] * x[0];
  if constexpr (kVectors > 1) {
    if (exact) {
      float odd = x[1] * x[1];
      for (int i = 2; i < kVectors; i += 2) {
        sum = sum + x[i] * x[i];
        odd = odd + x[i + 1] * x[i + 1];
      }
      return sum + odd;
    }
  }
  for (int i = 1; i < kVectors; ++i) sum = sum + x[i] * x[i];
  return sum;
}

/// The groups of a row that the block of threads takes at once, into `kept` (where a row fits
/// whole, at its own columns). Returns where in `kept` column `first` is. `squares` is called with
/// each thread's sum of squares of a group, as it was before the rotation.
template <int kVectors, typename Source, typename Squares>
__device__ void rotate_groups(const Source& source, float* kept, std::int64_t row,
                              std::int64_t first, const RowRule& rule, Squares squares) {
  const std::int64_t lane = threadIdx.x % kLanes;
  const std::int64_t start = threadIdx.x / kLanes * (kVectors * kLanes);
  const std::int64_t offset = rule.columns <= kKeptColumns ? first : 0;
  float x[kVectors];
  for (int i = 0; i < kVectors; ++i) {
    const std::int64_t column = first + start + i * kLanes + lane;
    x[i] = column < rule.columns ? source.load(row, column) : 0.0f;
  }
  squares(sum_of_squares(x, source.exact_squares()));
  rotate_group(x, rule.block < kLanes ? rule.block : kLanes);
  for (int i = 0; i < kVectors; ++i) {
    const std::int64_t at = start + i * kLanes + lane;
    if (first + at < rule.columns) kept[offset + at] = x[i];
  }
}

/// Columns that the block of threads takes at once.
template <int kVectors>
__device__ std::int64_t columns_at_once() {
  return std::int64_t{blockDim.x} * kVectors;
}

/// The stages of blocks of more than 128, on a whole row.
__device__ inline void rotate_beyond_128(float* kept, const RowRule& rule) {
  for (std::int64_t half = 128; half < rule.block; half *= 2) {
    __syncthreads();
    for (std::int64_t i = threadIdx.x; i < rule.columns / 2; i += blockDim.x) {
      const std::int64_t low = i / half * 2 * half + i % half;
      const float a = kept[low], b = kept[low + half];
      kept[low] = a + b;
      kept[low + half] = a - b;
    }
  }
  __syncthreads();
}

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
  const double levels = rule.max_code - rule.min_code + 1;
  return outermost > rule.epsilon ? outermost * (levels / (levels - 1)) : -1.0;
}

__device__ inline CodeScale scale_of_row(const RowRule& rule, double square_sum) {
  const double inverse_columns = 1.0 / static_cast<double>(rule.columns);
  const double steps_per_clip_point = 2.0 / (rule.max_code - rule.min_code);
  const double scale = 1.0 / sqrt(static_cast<double>(rule.block));
  const double inverse_scale = 1.0 / scale;
  const double mean_square = square_sum * inverse_columns;
  if (!(mean_square <= 3.4e38)) return {0.0f, -1.0f, nanf("")};
  const double rms = sqrt(mean_square);
  const double step = steps_per_clip_point * (rule.alpha * rms + rule.epsilon);
  return {static_cast<float>(scale / step),
          static_cast<float>(mask_bound(rule, rms) * inverse_scale), static_cast<float>(step)};
}

/// Codes and mask of `count` rotated values at columns [first, first + count); returns this
/// thread's part of the sum of codes. `first` is a multiple of 32.
__device__ inline std::int32_t make_codes(const CodesOut& out, const float* kept, std::int64_t row,
                                          std::int64_t first, std::int64_t count,
                                          const RowRule& rule, const CodeScale& scale) {
  std::int32_t sum = 0;
  const bool broken = scale.step != scale.step;
  for (std::int64_t begin = 0; begin < count; begin += blockDim.x) {
    const std::int64_t at = begin + threadIdx.x;
    const bool inside = at < count;
    const float z = inside && !broken ? kept[at] : 0.0f;
    if (inside) {
      const float level = floorf(z * scale.inverse_step);
      const float low = static_cast<float>(rule.min_code), high = static_cast<float>(rule.max_code);
      const auto code = broken ? 0
                               : static_cast<std::int32_t>(level < low    ? low
                                                           : level > high ? high
                                                                          : level);
      out.codes[row * out.code_stride + first + at] = static_cast<std::int8_t>(code);
      sum += code;
    }
    if (out.mask != nullptr) {
      const unsigned bits =
          __ballot_sync(kAllLanes, inside && !broken && fabsf(z) <= scale.limit ? 1 : 0);
      if (inside && threadIdx.x % 8 == 0) {
        out.mask[row * out.mask_stride + (first + at) / 8] =
            static_cast<std::uint8_t>(bits >> threadIdx.x % kWarp);
      }
    }
  }
  return sum;
}

/// rows = quantization of the source's rows.
template <int kVectors, typename Source>
__global__ void __launch_bounds__(256)
    quantize_rows_kernel(Source source, CodesOut out, RowRule rule) {
  follow_last_kernel();
  __shared__ float kept[kKeptColumns];
  __shared__ float squares[kMostGroups][kLanes];
  __shared__ double lane_sums[kLanes];
  const std::int64_t row = blockIdx.x, at_once = columns_at_once<kVectors>();
  const unsigned lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
  const bool fits = rule.columns <= kKeptColumns;
  source.begin(row);

  double sum = 0;  // of lane `threadIdx.x`, over groups in their order
  for (std::int64_t first = 0; first < rule.columns; first += at_once) {
    rotate_groups<kVectors>(source, kept, row, first, rule,
                            [&](float value) { squares[group][lane] = value; });
    __syncthreads();
    if (threadIdx.x < kLanes) {
      for (unsigned g = 0; g < blockDim.x / kLanes; ++g) {
        if (first + g * kVectors * kLanes < rule.columns) sum += double{squares[g][threadIdx.x]};
      }
      lane_sums[threadIdx.x] = sum;
    }
    __syncthreads();
  }
  if (rule.block > 128) rotate_beyond_128(kept, rule);
  double sums[kLanes];
  for (int i = 0; i < kLanes; ++i) sums[i] = lane_sums[i];
  for (int half = kLanes / 2; half >= 1; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  const CodeScale scale = scale_of_row(rule, sums[0]);

  std::int32_t code_sum = 0;
  if (fits) {
    code_sum = make_codes(out, kept, row, 0, rule.columns, rule, scale);
  } else {
    for (std::int64_t first = 0; first < rule.columns; first += at_once) {
      __syncthreads();
      rotate_groups<kVectors>(source, kept, row, first, rule, [](float) {});
      __syncthreads();
      const std::int64_t left = rule.columns - first;
      code_sum += make_codes(out, kept, row, first, left < at_once ? left : at_once, rule, scale);
    }
  }
  code_sum = block_join(code_sum, Plus());
  if (threadIdx.x == 0) {
    out.steps[row] = scale.step;
    out.code_sums[row] = code_sum;
  }
}

/// out (= or +=) rotation of the source's rows, times `scale`.
template <int kVectors, typename Source>
__global__ void __launch_bounds__(256)
    rotate_rows_kernel(Source source, FloatRows out, RowRule rule, float scale, bool add) {
  follow_last_kernel();
  __shared__ float kept[kKeptColumns];
  const std::int64_t row = blockIdx.x, at_once = columns_at_once<kVectors>();
  const bool fits = rule.columns <= kKeptColumns;
  for (std::int64_t first = 0; first < rule.columns; first += at_once) {
    __syncthreads();
    rotate_groups<kVectors>(source, kept, row, first, rule, [](float) {});
    if (fits) continue;
    __syncthreads();
    for (std::int64_t at = threadIdx.x; at < at_once && first + at < rule.columns;
         at += blockDim.x) {
      out.write(row, first + at, kept[at] * scale, add);
    }
  }
  if (!fits) return;
  rotate_beyond_128(kept, rule);
  for (std::int64_t at = threadIdx.x; at < rule.columns; at += blockDim.x) {
    out.write(row, at, kept[at] * scale, add);
  }
}

/// parts[row] = {masked-out values, sum of squared errors, sum of squares} of a row.
template <int kVectors, typename Source>
__global__ void __launch_bounds__(256)
    quantization_error_kernel(Source source, CodesOut rows, RowRule rule, float scale,
                              double* parts) {
  follow_last_kernel();
  __shared__ float kept[kKeptColumns];
  const std::int64_t row = blockIdx.x, at_once = columns_at_once<kVectors>();
  const double step = rows.steps[row];
  double masked = 0, errors = 0, squares = 0;
  const auto count = [&](std::int64_t column, float rotated) {
    const double z = double{rotated} * scale;
    const double error = (rows.codes[row * rows.code_stride + column] + 0.5) * step - z;
    const bool passes = rows.mask == nullptr ||
                        (rows.mask[row * rows.mask_stride + column / 8] >> column % 8 & 1) != 0;
    masked += passes ? 0 : 1;
    errors += error * error;
    squares += z * z;
  };
  const bool fits = rule.columns <= kKeptColumns;
  for (std::int64_t first = 0; first < rule.columns; first += at_once) {
    __syncthreads();
    rotate_groups<kVectors>(source, kept, row, first, rule, [](float) {});
    __syncthreads();
    for (std::int64_t at = threadIdx.x; !fits && at < at_once && first + at < rule.columns;
         at += blockDim.x) {
      count(first + at, kept[at]);
    }
  }
  if (fits) {
    rotate_beyond_128(kept, rule);
    for (std::int64_t at = threadIdx.x; at < rule.columns; at += blockDim.x) count(at, kept[at]);
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
