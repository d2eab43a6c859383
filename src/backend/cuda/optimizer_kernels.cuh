// Kernels of the optimizer: sums in double, the clip factor, and AdamW with moments of 32, 16 or 8
// bits.
#pragma once

#include "backend/adamw_factors.h"
#include "backend/cuda/device_rows.cuh"

namespace quest::cuda {

/// Values of a partial sum; fixed, so that a sum depends on nothing else.
inline constexpr std::int64_t kSumBlock = 1 << 15;

__global__ void __launch_bounds__(256)
    sum_parts_kernel(double* parts, const float* x, std::int64_t count, bool squares) {
  follow_last_kernel();
  const std::int64_t begin = std::int64_t{blockIdx.x} * kSumBlock;
  const std::int64_t end = begin + kSumBlock < count ? begin + kSumBlock : count;
  double sum = 0;
  for (std::int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
    const double value = x[i];
    sum += squares ? value * value : value;
  }
  sum = block_join(sum, Plus());
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

/// total += parts, in order.
__global__ void add_sums_kernel(double* total, const double* parts, std::int64_t count) {
  follow_last_kernel();
  if (threadIdx.x != 0) return;
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += parts[i];
  *total += sum;
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

/// Moments in f32 or bf16.
__global__ void __launch_bounds__(256)
    adamw_kernel(AdamWTask task, FloatRows first, FloatRows second) {
  follow_last_kernel();
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const float scale = *task.grad_scale;
  if (i >= task.count || scale != scale) return;
  const Moments after = update(task.parameter[i], {first.load(0, i), second.load(0, i)},
                               task.gradient[i] * scale, *task.factors);
  first.store(0, i, after.first);
  second.store(0, i, after.second);
}

/// Moments in 8 bits: codes and the scales of blocks.
struct CodedMoments {
  std::int8_t* first;
  std::uint8_t* second;
  float *first_scales, *second_scales;
};

/// One block of threads a block of values that share a scale.
__global__ void __launch_bounds__(256) adamw_codes_kernel(AdamWTask task, CodedMoments moments) {
  follow_last_kernel();
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const float scale = *task.grad_scale;
  if (scale != scale) return;  // in all threads alike
  const bool inside = i < task.count;
  Moments after{0.0f, 0.0f};
  if (inside) {
    const float first = static_cast<float>(moments.first[i]) / 127.0f;
    const float second = static_cast<float>(moments.second[i]) / 255.0f;
    const float square = second * second;
    after = update(task.parameter[i],
                   {moments.first_scales[blockIdx.x] * first * fabsf(first),
                    moments.second_scales[blockIdx.x] * square * square},
                   task.gradient[i] * scale, *task.factors);
  }
  const float most_first = block_join(fabsf(after.first), Larger());
  const float most_second = block_join(after.second, Larger());
  if (inside) {
    const float share1 = most_first > 0.0f ? after.first / most_first : 0.0f;
    const float share2 = most_second > 0.0f ? after.second / most_second : 0.0f;
    const float root1 = rintf(127.0f * sqrtf(fabsf(share1)));
    const float root2 = rintf(255.0f * sqrtf(sqrtf(share2)));
    moments.first[i] = static_cast<std::int8_t>(share1 < 0.0f ? -root1 : root1);
    moments.second[i] = static_cast<std::uint8_t>(share2 <= 0.0f ? 0.0f
                                                  : root2 < 1.0f ? 1.0f
                                                                 : root2);
  }
  if (threadIdx.x == 0) {
    moments.first_scales[blockIdx.x] = most_first;
    moments.second_scales[blockIdx.x] = most_second;
  }
}

}  // namespace quest::cuda
