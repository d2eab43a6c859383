// Kernels of the optimizer: sums in double, the clip factor, and AdamW with moments of 32, 16 or 8
// bits.
#pragma once

#include "backend/adamw_factors.h"
#include "backend/cuda/float_vectors.cuh"

namespace quest::cuda {

/// Values of a partial sum, and threads that add them; fixed, so that a sum depends on nothing
/// else.
inline constexpr std::int64_t kSumBlock = 1 << 15;
inline constexpr unsigned kSumThreads = 256;
inline constexpr unsigned kPartThreads = 1024;

/// Four neighbours from `at` on, of which `present` exist; 0 stands for the others. kAligned: they
/// begin at 16 bytes.
template <bool kAligned>
__device__ __forceinline__ void load_four(float (&values)[4], const float* at,
                                          std::int64_t present) {
  if (kAligned && present >= 4) {
    load_values(values, at);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = i < present ? at[i] : 0.0f;
  }
}

template <bool kAligned>
__device__ __forceinline__ void store_four(float* at, const float (&values)[4],
                                           std::int64_t present) {
  if (kAligned && present >= 4) {
    store_values(at, values);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < present) at[i] = values[i];
    }
  }
}

/// parts[block] = sum of the block's values, or of their squares. Each thread has every 256th four,
/// and four sums, one a neighbour.
template <bool kAligned>
__global__ void __launch_bounds__(kSumThreads)
    sum_parts_kernel(double* parts, const float* x, std::int64_t count, bool squares) {
  follow_last_kernel();
  constexpr unsigned kFours = kSumBlock / (4 * kSumThreads);
  constexpr unsigned kAhead = 4;  // fours that are underway at once
  const std::int64_t begin = std::int64_t{blockIdx.x} * kSumBlock + 4 * threadIdx.x;
  double sums[4] = {0, 0, 0, 0};
  for (unsigned group = 0; group < kFours; group += kAhead) {
    float values[kAhead][4];
#pragma unroll
    for (unsigned k = 0; k < kAhead; ++k) {
      const std::int64_t i = begin + std::int64_t{group + k} * (4 * kSumThreads);
      load_four<kAligned>(values[k], x + i, count - i);
    }
#pragma unroll
    for (unsigned k = 0; k < kAhead; ++k) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const double value = values[k][j];
        sums[j] = fma(value, squares ? value : 1.0, sums[j]);
      }
    }
  }
  const double sum = block_join((sums[0] + sums[1]) + (sums[2] + sums[3]), Plus());
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

/// total += parts: each thread adds every 1024th in order, then these sums are joined.
__global__ void __launch_bounds__(kPartThreads)
    add_sums_kernel(double* total, const double* parts, unsigned count) {
  follow_last_kernel();
  double sum = 0;
#pragma unroll 4
  for (unsigned i = threadIdx.x; i < count; i += kPartThreads) sum += parts[i];
  sum = block_join(sum, Plus());
  if (threadIdx.x == 0) *total += sum;
}

__global__ void clip_scale_kernel(float* scale, const double* sums, std::int64_t count,
                                  float max_norm) {
  follow_last_kernel();
  if (threadIdx.x != 0) return;
  double factor = 1.0;
  if (max_norm > 0) factor = fmin(1.0, max_norm / (sqrt(sums[count - 1]) + 1e-6));
  bool finite = true;
  for (std::int64_t i = 0; i < count; ++i) finite = finite && sums[i] - sums[i] == 0.0;
  *scale = finite ? static_cast<float>(factor) : nanf("");
}

/// What an update reads and moves beside the moments.
struct AdamWTask {
  float* parameter;
  const float *gradient, *grad_scale;
  std::int64_t count;
  const AdamWFactors* factors;
  bool aligned;  ///< all tensors begin at 16 bytes
};

/// The updated moments; moves `parameter`.
struct Moments {
  float first, second;
};
__device__ inline Moments update(float& parameter, Moments before, float g, const AdamWFactors& f) {
  const Moments after{f.beta1 * before.first + f.one_minus_beta1 * g,
                      f.beta2 * before.second + f.one_minus_beta2 * g * g};
  const float step = after.first * f.inverse_correction1 /
                     (sqrtf(after.second * f.inverse_correction2) + f.epsilon);
  parameter = parameter * f.decay - f.learning_rate * step;
  return after;
}

/// Neighbouring values that a thread updates at once.
inline constexpr int kUpdateWidth = 4;

/// kCount values from i on.
template <int kCount, typename T>
__device__ __forceinline__ void update_values(const AdamWTask& task, T* first, T* second,
                                              std::int64_t i) {
  float parameter[kCount], gradient[kCount], m[kCount], v[kCount];
  load_values(parameter, task.parameter + i);
  load_values(gradient, task.gradient + i);
  load_values(m, first + i);
  load_values(v, second + i);
  const float scale = *task.grad_scale;
  const AdamWFactors factors = *task.factors;
  if (scale != scale) return;
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    const Moments after = update(parameter[k], {m[k], v[k]}, gradient[k] * scale, factors);
    m[k] = after.first;
    v[k] = after.second;
  }
  store_values(task.parameter + i, parameter);
  store_values(first + i, m);
  store_values(second + i, v);
}

/// Moments in f32 or bf16.
template <typename T>
__global__ void __launch_bounds__(256) adamw_kernel(AdamWTask task, T* first, T* second) {
  follow_last_kernel();
  std::int64_t i = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kUpdateWidth;
  if (task.aligned && i + kUpdateWidth <= task.count) {
    update_values<kUpdateWidth>(task, first, second, i);
    return;
  }
  for (const std::int64_t end = i + kUpdateWidth; i < end && i < task.count; ++i) {
    update_values<1>(task, first, second, i);
  }
}

/// Moments in 8 bits: codes and the scales of blocks.
struct CodedMoments {
  std::int8_t* first;
  std::uint8_t* second;
  float *first_scales, *second_scales;
};

/// The codes of values that share a scale by 1 / scale, or 0 where the scale is 0. A scale below
/// the range whose inverse is a number is lifted into it, with the values.
struct MomentShare {
  float lift, inverse;
  __device__ explicit MomentShare(float scale)
      : lift(scale < 0x1p-64f ? 0x1p64f : 1.0f),
        inverse(scale > 0.0f ? 1.0f / (scale * lift) : 0.0f) {}
  __device__ float of(float value) const { return value * lift * inverse; }
};
__device__ __forceinline__ std::int8_t first_code(float share) {
  const float root = rintf(127.0f * fast_sqrt(fabsf(share)));
  return static_cast<std::int8_t>(share < 0.0f ? -root : root);
}
__device__ __forceinline__ std::uint8_t second_code(float share) {
  const float root = rintf(255.0f * fast_sqrt(fast_sqrt(share)));
  return static_cast<std::uint8_t>(share <= 0.0f ? 0.0f : root < 1.0f ? 1.0f : root);
}

/// Four codes from `at` on, of which `present` exist.
template <bool kAligned, typename T>
__device__ __forceinline__ void load_codes(T (&codes)[4], const T* at, std::int64_t present) {
  if constexpr (kAligned) {
    const unsigned word = *reinterpret_cast<const unsigned*>(at);
#pragma unroll
    for (int i = 0; i < 4; ++i) codes[i] = static_cast<T>(word >> 8 * i);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) codes[i] = i < present ? at[i] : T{0};
  }
}
template <bool kAligned, typename T>
__device__ __forceinline__ void store_codes(T* at, const T (&codes)[4], std::int64_t present) {
  if constexpr (kAligned) {
    unsigned word = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) word |= unsigned{static_cast<std::uint8_t>(codes[i])} << 8 * i;
    *reinterpret_cast<unsigned*>(at) = word;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < present) at[i] = codes[i];
    }
  }
}

/// A warp updates the values begin .. begin + 256, which share a scale: a lane has fours of them.
/// kAligned: all of them exist, and tensors begin at 16 bytes.
template <bool kAligned>
__device__ __forceinline__ void update_coded(const AdamWTask& task, const CodedMoments& moments,
                                             std::int64_t block, unsigned lane) {
  constexpr int kFours = 2;
  static_assert(kFours * 4 * kWarp == 256);
  float parameter[kFours][4], gradient[kFours][4];
  std::int8_t first[kFours][4];
  std::uint8_t second[kFours][4];
  const auto place = [&](int k) { return block * 256 + (k * kWarp + lane) * 4; };
#pragma unroll
  for (int k = 0; k < kFours; ++k) {
    const std::int64_t i = place(k), present = task.count - i;
    load_four<kAligned>(parameter[k], task.parameter + i, present);
    load_four<kAligned>(gradient[k], task.gradient + i, present);
    load_codes<kAligned>(first[k], moments.first + i, present);
    load_codes<kAligned>(second[k], moments.second + i, present);
  }
  const float first_scale = moments.first_scales[block];
  const float second_scale = moments.second_scales[block];
  const float scale = *task.grad_scale;
  const AdamWFactors factors = *task.factors;
  if (scale != scale) return;  // in all lanes alike
  Moments after[kFours][4];
  unsigned largest1 = 0, largest2 = 0;  // magnitudes are ordered as their bits are, NaN last
#pragma unroll
  for (int k = 0; k < kFours; ++k) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float root1 = static_cast<float>(first[k][j]) * (1.0f / 127.0f);
      const float root2 = static_cast<float>(second[k][j]) * (1.0f / 255.0f);
      const float square = root2 * root2;
      after[k][j] = update(parameter[k][j],
                           {first_scale * root1 * fabsf(root1), second_scale * square * square},
                           gradient[k][j] * scale, factors);
      const unsigned bits1 = __float_as_uint(fabsf(after[k][j].first));
      const unsigned bits2 = __float_as_uint(fabsf(after[k][j].second));
      largest1 = bits1 > largest1 ? bits1 : largest1;
      largest2 = bits2 > largest2 ? bits2 : largest2;
    }
  }
  const float most1 = __uint_as_float(__reduce_max_sync(kAllLanes, largest1));
  const float most2 = __uint_as_float(__reduce_max_sync(kAllLanes, largest2));
  const MomentShare share1(most1), share2(most2);
#pragma unroll
  for (int k = 0; k < kFours; ++k) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      first[k][j] = first_code(share1.of(after[k][j].first));
      second[k][j] = second_code(share2.of(after[k][j].second));
    }
    const std::int64_t i = place(k), present = task.count - i;
    store_four<kAligned>(task.parameter + i, parameter[k], present);
    store_codes<kAligned>(moments.first + i, first[k], present);
    store_codes<kAligned>(moments.second + i, second[k], present);
  }
  if (lane == 0) {
    moments.first_scales[block] = most1;
    moments.second_scales[block] = most2;
  }
}

__global__ void __launch_bounds__(256) adamw_codes_kernel(AdamWTask task, CodedMoments moments) {
  follow_last_kernel();
  const std::int64_t block = std::int64_t{blockIdx.x} * (256 / kWarp) + threadIdx.x / kWarp;
  const unsigned lane = threadIdx.x % kWarp;
  if (block * 256 >= task.count) return;
  if (task.aligned && (block + 1) * 256 <= task.count) {
    update_coded<true>(task, moments, block, lane);
  } else {
    update_coded<false>(task, moments, block, lane);
  }
}

}  // namespace quest::cuda
