// Where the values of a row come from that is rotated or quantized: a tensor, codes, or a norm or
// SwiGLU that is computed on the way. Each comes in two kinds. Sources of elements take rows of any
// type, place and length: `load(row, column)`. Sources of vectors (with kTakesGroups) take rows of
// whole groups of 128 that begin at multiples of 16 bytes, of a type that is known: `load(x, row,
// column)` loads what a thread holds of a group (row_groups.cuh), `column` being the first.
//
// Of a source that is quantized all threads of the block call `begin` once; then `finish` makes
// values of what `load` of vectors gives. Squares of its values are exact in f32 where these have
// half its digits, as bf16 does.
#pragma once

#include "backend/cuda/row_groups.cuh"
#include "quant/scheme.h"

namespace quest::cuda {

template <typename Source>
concept VectorSource = requires {
  Source::kTakesGroups;
};

template <typename T>
inline constexpr bool kIsBf16 = sizeof(T) == 2;

// --- Tensors and codes ---

struct PlainSource {
  FloatRows x;
  __device__ void begin(std::int64_t) {}
  __device__ bool exact_squares() const { return x.bf16; }
  __device__ float load(std::int64_t row, std::int64_t column) const { return x.load(row, column); }
};

template <typename T>
struct PlainVectors {
  static constexpr bool kTakesGroups = true;
  static constexpr bool kExactSquares = kIsBf16<T>;
  TypedRows<T> x;
  template <int kHeld>
  __device__ __forceinline__ void load(float (&values)[kHeld], std::int64_t row, int column) const {
    load_held(values, x.data + row * x.stride + column);
  }
  template <int kHeld>
  __device__ void begin(float (&)[kHeld], std::int64_t, int) {}
  template <int kHeld>
  __device__ void finish(float (&)[kHeld], int) const {}
};

/// mask * x; a null mask passes everything.
struct MaskedSource {
  FloatRows x;
  const std::uint8_t* mask;
  std::int64_t mask_stride;
  __device__ float load(std::int64_t row, std::int64_t column) const {
    const bool passes =
        mask == nullptr || (mask[row * mask_stride + column / 8] >> column % 8 & 1) != 0;
    return passes ? x.load(row, column) : 0.0f;
  }
};

/// Rows of the mask begin at multiples of 16 bytes, too.
template <typename T>
struct MaskedVectors {
  static constexpr bool kTakesGroups = true;
  TypedRows<T> x;
  const std::uint8_t* mask;
  std::int64_t mask_stride;
  __device__ __forceinline__ void load(float (&values)[kWide], std::int64_t row, int column) const {
    uint4 words{};
    if (mask != nullptr) {  // Underway before the values are waited for.
      words = *reinterpret_cast<const uint4*>(mask + row * mask_stride +
                                              column / kGroup * (kGroup / 8));
    }
    load_held(values, x.data + row * x.stride + column);
    if (mask == nullptr) return;
    const unsigned all[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < kWide; i += 8) {
      const unsigned bits = all[i / 16] >> (i / 8 % 2 * 16 + first_held<kWide>());
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        if ((bits >> k & 1u) == 0) values[i + k] = 0.0f;
      }
    }
  }
};

/// (q + 1/2) step.
struct CodesSource {
  const std::int8_t* codes;
  const float* steps;
  std::int64_t stride;
  __device__ float load(std::int64_t row, std::int64_t column) const {
    return (static_cast<float>(codes[row * stride + column]) + 0.5f) * steps[row];
  }
};

/// Rows of codes begin at multiples of 8 bytes.
struct CodesVectors {
  static constexpr bool kTakesGroups = true;
  const std::int8_t* codes;
  const float* steps;
  std::int64_t stride;
  __device__ __forceinline__ void load(float (&values)[kWide], std::int64_t row, int column) const {
    const std::int8_t* const from = codes + row * stride + column;
    const float step = steps[row];
#pragma unroll
    for (int i = 0; i < kWide; i += 8) {
      const uint2 eight = *reinterpret_cast<const uint2*>(from + place_of<kWide>(i));
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const unsigned word = k < 4 ? eight.x : eight.y;
        values[i + k] =
            (static_cast<float>(static_cast<std::int8_t>(word >> 8 * (k % 4))) + 0.5f) * step;
      }
    }
  }
};

// --- The norm ---

/// Threads of a block that computes a norm alone.
inline constexpr unsigned kNormThreads = 256;

/// The sum over the kLanes lanes of a group in all of its threads, of which each has added its own,
/// neighbours first.
template <int kHeld>
__device__ __forceinline__ float join_group(float sum) {
#pragma unroll
  for (int apart = 1; apart < kSharers<kHeld>; apart *= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, apart);
  }
  return sum;
}

/// Of what the threads of a group hold.
template <int kHeld>
__device__ __forceinline__ float sum_of_squares(const float (&x)[kHeld]) {
  constexpr int kCount = kNeighbours<kHeld>;
  constexpr int kAtOnce = kCount < 4 ? kCount : 4;  // eight sums would not fit the registers
  float total = 0.0f;
#pragma unroll
  for (int lane = 0; lane < kCount; lane += kAtOnce) {
    float sums[kAtOnce] = {};
#pragma unroll
    for (int i = lane; i < kHeld; i += kCount) {
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) sums[k] = fmaf(x[i + k], x[i + k], sums[k]);
    }
#pragma unroll
    for (int apart = 1; apart < kAtOnce; apart *= 2) {
#pragma unroll
      for (int k = 0; k < kAtOnce; k += 2 * apart) sums[k] += sums[k + apart];
    }
    total = lane == 0 ? sums[0] : total + sums[0];
  }
  return join_group<kHeld>(total);
}

/// The same of a group at column `first` of a row that ends anywhere; kWide values a thread.
__device__ inline float sum_of_squares(const float* row, int first, int columns) {
  constexpr int kCount = kNeighbours<kWide>;
  const bool whole = columns % kGroup == 0 && reinterpret_cast<std::uintptr_t>(row) % 16 == 0;
  float sums[kCount] = {};
#pragma unroll
  for (int i = 0; i < kWide; i += 4) {
    const int at = first + first_held<kWide>() + place_of<kWide>(i);
    float x[4] = {};
    if (whole) {
      if (first < columns) load_values(x, row + at);
    } else {
#pragma unroll 1
      for (int k = 0; k < 4 && at + k < columns; ++k) x[k] = row[at + k];
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float& sum = sums[(i + k) % kCount];
      sum = fmaf(x[k], x[k], sum);
    }
  }
  static_assert(kCount == 8);
  return join_group<kWide>(((sums[0] + sums[1]) + (sums[2] + sums[3])) +
                           ((sums[4] + sums[5]) + (sums[6] + sums[7])));
}

/// Groups that a block of threads takes at once, at most.
inline constexpr int kMostGroups = 160;
static_assert(kNormThreads * kWide / kGroup <= kMostGroups);

/// 1 / rms of a row, in every thread; squares(first) is the sum of squares of the group at column
/// `first`, in all threads that have it, 0 behind the row's end. The order of the sum is that of
/// the columns: neither of the number of threads nor of what each holds.
template <int kHeld, typename Squares>
__device__ __forceinline__ float inverse_rms(int columns, float epsilon, const Squares& squares) {
  __shared__ float groups[kMostGroups];
  const int own = group_of_thread<kHeld>(), at_once = columns_at_once<kHeld>();
  float total = 0.0f;
  for (int begin = 0; begin < columns; begin += at_once) {
    const float sum = squares(begin + own);
    if (begin > 0) __syncthreads();  // Earlier ones have been read.
    if (place_in_group<kHeld>() == 0) groups[own / kGroup] = sum;
    __syncthreads();
    // A lane of every warp adds each 32nd group of the row.
    const int lane = static_cast<int>(threadIdx.x) - begin / kGroup;
    for (int i = lane & 31; i < at_once / kGroup; i += 32) total += groups[i];
  }
  return rsqrtf(warp_join(total, Plus()) / static_cast<float>(columns) + epsilon);
}

__device__ __forceinline__ float norm_value(float x, float inverse, float weight) {
  return x * inverse * weight;
}

/// x * rstd * weight, rounded to bf16 or not; sets rstd. x is f32.
struct NormSource {
  FloatRows x;
  const float* weight;
  float* rstd;
  float epsilon;
  std::int64_t columns;
  bool bf16;
  float inverse = 0.0f;

  __device__ void begin(std::int64_t row) {
    const float* const from = static_cast<const float*>(x.data) + row * x.stride;
    const int count = static_cast<int>(columns);
    inverse = inverse_rms<kWide>(count, epsilon,
                                 [&](int first) { return sum_of_squares(from, first, count); });
    if (threadIdx.x == 0) rstd[row] = inverse;
  }
  __device__ bool exact_squares() const { return bf16; }
  __device__ float load(std::int64_t row, std::int64_t column) const {
    const float y = norm_value(x.load(row, column), inverse, weight[column]);
    return bf16 ? bf16_to_float(float_to_bf16(y)) : y;
  }
};

/// The weight begins at a multiple of 16 bytes, too.
template <bool kRounded>
struct NormVectors {
  static constexpr bool kTakesGroups = true;
  static constexpr bool kExactSquares = kRounded;
  TypedRows<float> x;
  const float* weight;
  float* rstd;
  float epsilon;
  float inverse = 0.0f;

  template <int kHeld>
  __device__ __forceinline__ void load(float (&values)[kHeld], std::int64_t row, int column) const {
    load_held(values, x.data + row * x.stride + column);
  }
  template <int kHeld>
  __device__ __forceinline__ void begin(float (&values)[kHeld], std::int64_t row, int columns) {
    const auto take = [&](int first) {
      if (first >= columns) return clear_held(values);
      load(values, row, first + first_held<kHeld>());
    };
    const int at_once = columns_at_once<kHeld>();
    inverse = inverse_rms<kHeld>(columns, epsilon, [&](int first) {
      if (first >= at_once) take(first);
      return sum_of_squares(values);
    });
    if (columns > at_once) take(group_of_thread<kHeld>());
    if (threadIdx.x == 0) rstd[row] = inverse;
  }
  template <int kHeld>
  __device__ __forceinline__ void finish(float (&values)[kHeld], int column) const {
    constexpr int kCount = kNeighbours<kHeld>;
#pragma unroll
    for (int i = 0; i < kHeld; i += kCount) {
      float weights[kCount];
      load_values(weights, weight + column + place_of<kHeld>(i));
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        values[i + k] = norm_value(values[i + k], inverse, weights[k]);
      }
    }
    if constexpr (kRounded) round_held(values);
  }
};

// --- SwiGLU ---

/// silu(gate) * up; NaN where the gate is infinite or its magnitude above 2.3e38. exp(-gate) is a
/// power of 2 of two units in the last place, times what rounding its exponent changed; and a
/// reciprocal of one unit takes the place of a quotient. Where exp(-gate) is above 2^126 the result
/// is 0.
__device__ __forceinline__ float swiglu_value(float gate, float up) {
  constexpr float kBitsOfE = 1.44269504f, kLn2 = 0.693147181f;
  const float exponent = gate * -kBitsOfE;
  const float too_much = fmaf(gate, kBitsOfE, exponent);
  const float denominator = fmaf(fast_exp2(exponent), fmaf(too_much, -kLn2, 1.0f), 1.0f);
  return gate * fast_reciprocal(denominator) * up;
}

/// swiglu_value, rounded to bf16 or not.
struct SwigluSource {
  FloatRows gate, up;
  bool bf16;

  __device__ void begin(std::int64_t) {}
  __device__ bool exact_squares() const { return bf16; }
  __device__ float load(std::int64_t row, std::int64_t column) const {
    const float h = swiglu_value(gate.load(row, column), up.load(row, column));
    return bf16 ? bf16_to_float(float_to_bf16(h)) : h;
  }
};

/// The same, rounded to the type of gate and up.
template <typename T>
struct SwigluVectors {
  static constexpr bool kTakesGroups = true;
  static constexpr bool kExactSquares = kIsBf16<T>;
  TypedRows<T> gate, up;
  template <int kHeld>
  __device__ __forceinline__ void load(float (&values)[kHeld], std::int64_t row, int column) const {
    const T* const gates = gate.data + row * gate.stride + column;
    const T* const ups = up.data + row * up.stride + column;
    constexpr int kCount = kNeighbours<kHeld>;
#pragma unroll
    for (int i = 0; i < kHeld; i += kCount) {
      float g[kCount], u[kCount];
      load_values(g, gates + place_of<kHeld>(i));
      load_values(u, ups + place_of<kHeld>(i));
#pragma unroll
      for (int k = 0; k < kCount; ++k) values[i + k] = swiglu_value(g[k], u[k]);
    }
    if constexpr (kIsBf16<T>) round_held(values);
  }
  template <int kHeld>
  __device__ void begin(float (&)[kHeld], std::int64_t, int) {}
  template <int kHeld>
  __device__ void finish(float (&)[kHeld], int) const {}
};

}  // namespace quest::cuda
