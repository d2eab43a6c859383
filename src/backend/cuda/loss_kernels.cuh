// Cross-entropy and its gradient.
#pragma once

#include <cfloat>

#include "backend/cuda/row_vectors.cuh"

namespace quest::cuda {

struct CrossEntropy {
  float* losses;
  std::uint8_t* correct;
  FloatRows d_logits;  ///< null data: none
  const float* logits;
  const std::int32_t* targets;
  unsigned vocab;
  float scale;
};

/// Threads of a block, which has a row; two blocks a multiprocessor read what the second-level
/// cache still holds when they read a row again.
inline constexpr unsigned kLossThreads = 512;
/// Neighbouring logits of a thread, and how many such it takes before it works on them.
inline constexpr unsigned kLogits = 4;
inline constexpr unsigned kLogitVectors = 4;
/// Logits that a block takes at once.
inline constexpr unsigned kLossStep = kLossThreads * kLogits * kLogitVectors;

/// A thread's part of the logits begin .. begin + kLossStep of a row; beyond its end -infinity.
struct LogitsStep {
  float values[kLogitVectors][kLogits];

  __device__ static unsigned column(unsigned begin, unsigned vector) {
    return begin + (vector * kLossThreads + threadIdx.x) * kLogits;
  }
  template <bool kVectors>
  __device__ __forceinline__ void load(const float* row, unsigned begin, unsigned vocab) {
#pragma unroll
    for (unsigned j = 0; j < kLogitVectors; ++j) {
      const unsigned v = column(begin, j);
      if (kVectors && v < vocab) {
        load_values(values[j], row + v);
      } else {
#pragma unroll
        for (unsigned i = 0; i < kLogits; ++i) {
          values[j][i] = !kVectors && v + i < vocab ? row[v + i] : -HUGE_VALF;
        }
      }
    }
  }
};

/// 2^(x log2 e): of a logit's distance to the largest one.
__device__ __forceinline__ float exp_of(float x) { return fast_exp2(x * 1.44269504f); }

/// The largest of a thread's logits, the first place that has it, and the sum of exponentials of
/// the distances to it. A NaN makes the sum NaN.
struct SoftmaxSum {
  float largest = -FLT_MAX;  // finite, so that -infinity has a distance to it
  float sum = 0.0f;
  std::int32_t first = INT32_MAX;

  __device__ __forceinline__ void add(const LogitsStep& step, unsigned begin) {
    float most = step.values[0][0];
#pragma unroll
    for (unsigned j = 0; j < kLogitVectors; ++j) {
#pragma unroll
      for (unsigned i = 0; i < kLogits; ++i) most = fmaxf(most, step.values[j][i]);
    }
    if (most > largest) {
      sum *= exp_of(largest - most);
      largest = most;
#pragma unroll
      for (unsigned k = kLogitVectors * kLogits; k-- > 0;) {
        const unsigned j = k / kLogits, i = k % kLogits;
        if (step.values[j][i] == most) {
          first = static_cast<std::int32_t>(LogitsStep::column(begin, j) + i);
        }
      }
    }
#pragma unroll
    for (unsigned j = 0; j < kLogitVectors; ++j) {
      const float(&x)[kLogits] = step.values[j];
      sum += (exp_of(x[0] - largest) + exp_of(x[1] - largest)) +
             (exp_of(x[2] - largest) + exp_of(x[3] - largest));
    }
  }

  /// Of all threads of the block, in each.
  __device__ void join() {
    const float all = block_join(largest, Larger());
    sum = block_join(sum * exp_of(largest - all), Plus());
    first = block_join(largest == all ? first : INT32_MAX, Smaller());
    largest = all;
  }
};

/// Those of the gradients that stand before the end of a row, `count` values away.
template <bool kVectors, typename T>
__device__ __forceinline__ void store_gradients(T* at, const float (&gradients)[kLogits],
                                                unsigned count) {
  if constexpr (kVectors) {
    store_values(at, gradients);
  } else {
#pragma unroll
    for (unsigned i = 0; i < kLogits; ++i) {
      const float one[1] = {gradients[i]};
      if (i < count) store_values(at + i, one);
    }
  }
}

template <bool kVectors, typename T>
__device__ void write_gradient(const CrossEntropy& t, const SoftmaxSum& softmax, std::int64_t row) {
  const float* const logits = t.logits + row * t.vocab;
  T* const gradient = static_cast<T*>(t.d_logits.data) + row * t.d_logits.stride;
  const std::int32_t target = t.targets[row];
  const float share = t.scale / softmax.sum;
  for (unsigned begin = 0; begin < t.vocab; begin += kLossStep) {
    LogitsStep step;
    step.load<kVectors>(logits, begin, t.vocab);
    // The gradient may take the place of the logits in a narrower type: all threads have read
    // theirs of this step before any writes; later logits lie behind what is written.
    __syncthreads();
#pragma unroll
    for (unsigned j = 0; j < kLogitVectors; ++j) {
      const unsigned v = LogitsStep::column(begin, j);
      if (v >= t.vocab) break;
      float(&values)[kLogits] = step.values[j];
#pragma unroll
      for (unsigned i = 0; i < kLogits; ++i) {
        values[i] = exp_of(values[i] - softmax.largest) * share;
        if (static_cast<std::int32_t>(v + i) == target) values[i] -= t.scale;
        if (target < 0) values[i] = 0.0f;
      }
      store_gradients<kVectors>(gradient + v, values, t.vocab - v);
    }
  }
}

/// One block of threads a row, which it reads twice. kVectors: rows begin at multiples of 16 bytes,
/// those of the gradient of four values.
template <bool kVectors>
__global__ void __launch_bounds__(kLossThreads, kVectors ? 2 : 1)
    cross_entropy_kernel(CrossEntropy t) {
  follow_last_kernel();
  const std::int64_t row = blockIdx.x;
  const float* const logits = t.logits + row * t.vocab;
  SoftmaxSum softmax;
  for (unsigned begin = 0; begin < t.vocab; begin += kLossStep) {
    LogitsStep step;
    step.load<kVectors>(logits, begin, t.vocab);
    softmax.add(step, begin);
  }
  softmax.join();
  if (threadIdx.x == 0) {  // before any thread writes a gradient
    const std::int32_t target = t.targets[row];
    const bool broken = softmax.sum != softmax.sum;
    t.losses[row] = target < 0 ? 0.0f : logf(softmax.sum) + (softmax.largest - logits[target]);
    t.correct[row] = target >= 0 && softmax.first == target && !broken ? 1 : 0;
  }
  if (t.d_logits.data == nullptr) return;
  if (t.d_logits.bf16) {
    write_gradient<kVectors, std::uint16_t>(t, softmax, row);
  } else {
    write_gradient<kVectors, float>(t, softmax, row);
  }
}

}  // namespace quest::cuda
