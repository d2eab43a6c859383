// Groups of 128 values of a row as four threads hold them, and what these do with them in
// registers: rotation, sums of squares, bits of a mask.
//
// Of a group's columns a thread holds kNeighbours that lie side by side, skips those of the three
// others, and so on: 32 values. Then five of the seven stages of the transform are additions in
// registers, and two ask one of the others. The order of all operations is that of the CPU's
// kernels (cpu/quantized/quantize_rows.inc.h), so codes, steps and masks are the same bits there
// and here; which thread holds a value does not show.
#pragma once

#include "backend/cuda/float_vectors.cuh"

namespace quest::cuda {

inline constexpr int kGroup = 128;
inline constexpr int kQuad = 4;               // threads of a group
inline constexpr int kHeld = kGroup / kQuad;  // values of a group that a thread holds
inline constexpr int kLanes = 16;             // sums of squares of a row, by column modulo 16

/// Which of a group's four threads this is.
__device__ __forceinline__ unsigned quad_thread() { return threadIdx.x % kQuad; }
/// The first column of this thread's group where the block of threads takes the columns from 0 on.
__device__ __forceinline__ int group_of_thread() {
  return static_cast<int>(threadIdx.x / kQuad) * kGroup;
}
/// Columns that the block of threads takes at once.
__device__ __forceinline__ int columns_at_once() { return static_cast<int>(blockDim.x) * kHeld; }

/// The first of this thread's columns in a group; the neighbours that it holds follow, and after
/// kQuad * kNeighbours columns the next ones.
template <int kNeighbours>
__device__ __forceinline__ int first_held() {
  return static_cast<int>(quad_thread()) * kNeighbours;
}
/// Where in the group the thread's value i lies, from first_held on.
template <int kNeighbours>
__device__ __forceinline__ constexpr int place_of(int i) {
  return i / kNeighbours * (kQuad * kNeighbours) + i % kNeighbours;
}

/// A thread's values of a group; `from` is at first_held.
template <int kNeighbours, typename T>
__device__ __forceinline__ void load_held(float (&x)[kHeld], const T* from) {
#pragma unroll
  for (int i = 0; i < kHeld; i += kNeighbours) {
    float part[kNeighbours];
    load_values(part, from + place_of<kNeighbours>(i));
#pragma unroll
    for (int k = 0; k < kNeighbours; ++k) x[i + k] = part[k];
  }
}
template <int kNeighbours, typename T>
__device__ __forceinline__ void store_held(T* to, const float (&x)[kHeld]) {
#pragma unroll
  for (int i = 0; i < kHeld; i += kNeighbours) {
    float part[kNeighbours];
#pragma unroll
    for (int k = 0; k < kNeighbours; ++k) part[k] = x[i + k];
    store_values(to + place_of<kNeighbours>(i), part);
  }
}

__device__ __forceinline__ void clear_held(float (&x)[kHeld]) {
#pragma unroll
  for (int i = 0; i < kHeld; ++i) x[i] = 0.0f;
}

/// The values as a store in bf16 leaves them.
__device__ __forceinline__ void round_held(float (&x)[kHeld]) {
#pragma unroll
  for (int i = 0; i < kHeld; i += 2) unpack_bf16_pair(x[i], x[i + 1], bf16_pair(x[i], x[i + 1]));
}

/// One stage of the transform, between columns that are kHalf apart.
template <int kNeighbours, int kHalf>
__device__ __forceinline__ void rotate_stage(float (&x)[kHeld]) {
  if constexpr (kHalf < kNeighbours || kHalf >= kQuad * kNeighbours) {
    constexpr int kStep = kHalf < kNeighbours ? kHalf : kHalf / kQuad;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if ((i & kStep) != 0) continue;
      const float sum = x[i] + x[i + kStep];
      x[i + kStep] = x[i] - x[i + kStep];
      x[i] = sum;
    }
  } else {
    constexpr int kThreads = kHalf / kNeighbours;
    // The product with 1 or -1 is exact: one rounding, as in an addition.
    const float sign = (quad_thread() & kThreads) != 0 ? -1.0f : 1.0f;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      x[i] = fmaf(x[i], sign, __shfl_xor_sync(kAllLanes, x[i], kThreads));
    }
  }
}

/// The transform of a group in blocks of `block`, or of 128 where that is less; unnormalized.
template <int kNeighbours>
__device__ __forceinline__ void rotate_held(float (&x)[kHeld], int block) {
  if (block > 64) rotate_stage<kNeighbours, 64>(x);
  if (block > 32) rotate_stage<kNeighbours, 32>(x);
  if (block > 16) rotate_stage<kNeighbours, 16>(x);
  if (block > 1) rotate_stage<kNeighbours, 1>(x);
  if (block > 2) rotate_stage<kNeighbours, 2>(x);
  if (block > 4) rotate_stage<kNeighbours, 4>(x);
  if (block > 8) rotate_stage<kNeighbours, 8>(x);
}

/// Values of a group that one sum of squares in f32 covers, in each of the 16 lanes.
__device__ __forceinline__ constexpr int summed_at_once(int block) {
  return block >= kGroup ? kGroup : block < kLanes ? kLanes : block;
}

/// Sums of squares of the group in each lane, in the CPU's order, to sums[place][lane], one place
/// for each summed_at_once(block) columns of the row: in order, or where squares are exact in two
/// sums, of every second value of the lane.
__device__ __forceinline__ void write_squares(float* sums, const float (&x)[kHeld], int block,
                                              bool exact) {
  const int each = summed_at_once(block) / kLanes;  // values of a sum
  float* const to =
      sums + threadIdx.x / kQuad * (kGroup / kLanes / each * kLanes) + first_held<4>();
  const bool in_two = exact && each > 1;
  float even[4] = {}, odd[4] = {};
#pragma unroll
  for (int i = 0; i < kHeld / 4; ++i) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float square = x[4 * i + k] * x[4 * i + k];
      if (in_two && i % 2 != 0) {
        odd[k] = odd[k] + square;
      } else {
        even[k] = even[k] + square;
      }
    }
    if ((i + 1) % each != 0) continue;
    if (in_two) {
#pragma unroll
      for (int k = 0; k < 4; ++k) even[k] = even[k] + odd[k];
    }
    store_values(to + (i + 1) / each * kLanes - kLanes, even);
#pragma unroll
    for (int k = 0; k < 4; ++k) even[k] = odd[k] = 0.0f;
  }
}

/// The same of eight neighbours, in one sum of 128 whose squares are exact: a thread holds every
/// second value of eight lanes, and another the others.
__device__ __forceinline__ void write_exact_squares(float* sums, const float (&x)[kHeld]) {
  float own[8];
#pragma unroll
  for (int k = 0; k < 8; ++k) own[k] = x[k] * x[k];
#pragma unroll
  for (int i = 8; i < kHeld; ++i) own[i % 8] = fmaf(x[i], x[i], own[i % 8]);
  const bool upper = (quad_thread() & 2u) != 0;
  float joined[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const float other = __shfl_xor_sync(kAllLanes, upper ? own[k] : own[k + 4], 2);
    joined[k] = (upper ? own[k + 4] : own[k]) + other;
  }
  store_values(sums + threadIdx.x / kQuad * kLanes + (quad_thread() & 1u) * 8u + (upper ? 4u : 0u),
               joined);
}

/// Byte t of the word of thread i becomes byte i of that of thread t of the four.
__device__ __forceinline__ unsigned transpose_bytes(unsigned word) {
  const bool odd = (quad_thread() & 1u) != 0, upper = (quad_thread() & 2u) != 0;
  unsigned other = __shfl_xor_sync(kAllLanes, word, 1);
  word = __byte_perm(word, other, odd ? 0x3715u : 0x6240u);
  other = __shfl_xor_sync(kAllLanes, word, 2);
  return __byte_perm(word, other, upper ? 0x3276u : 0x5410u);
}

/// The low halves of a word's bytes, side by side.
__device__ __forceinline__ unsigned low_nibbles(unsigned word) {
  word &= 0x0f0f0f0fu;
  word = (word | word >> 4) & 0x00ff00ffu;
  return (word | word >> 8) & 0xffffu;
}

/// The group's mask of columns 32 t .. 32 t + 31 in thread t, where bit i of `bits` is that of the
/// thread's value i.
template <int kNeighbours>
__device__ __forceinline__ unsigned mask_in_order(unsigned bits) {
  const unsigned word = transpose_bytes(bits);
  if constexpr (kNeighbours == 8) return word;
  return low_nibbles(word) | low_nibbles(word >> 4) << 16;
}

}  // namespace quest::cuda
