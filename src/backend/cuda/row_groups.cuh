// Groups of 128 values of a row as two threads hold them, and what these do with them in registers:
// rotation, sums of squares, bits of a mask.
//
// Of a group's columns a thread holds eight that lie side by side, skips eight of the other
// thread's, and so on: 64 values. Then six of the seven stages of the transform are additions in
// registers, one asks the other thread, and sums of squares need no other. The order of all
// operations is that of the CPU's kernels (cpu/quantized/quantize_rows.inc.h), so codes, steps and
// masks are the same bits there and here; which thread holds a value does not show.
#pragma once

#include "backend/cuda/float_vectors.cuh"

namespace quest::cuda {

inline constexpr int kGroup = 128;
inline constexpr int kPair = 2;               // threads of a group
inline constexpr int kHeld = kGroup / kPair;  // values of a group that a thread holds
inline constexpr int kNeighbours = 8;         // of these, side by side
inline constexpr int kLanes = 16;             // sums of squares of a row, by column modulo 16

/// Whether this is the second of a group's two threads.
__device__ __forceinline__ bool second_of_pair() { return threadIdx.x % kPair != 0; }
/// The first column of this thread's group where the block of threads takes the columns from 0 on.
__device__ __forceinline__ int group_of_thread() {
  return static_cast<int>(threadIdx.x / kPair) * kGroup;
}
/// Columns that the block of threads takes at once.
__device__ __forceinline__ int columns_at_once() { return static_cast<int>(blockDim.x) * kHeld; }

/// The first of this thread's columns in a group.
__device__ __forceinline__ int first_held() {
  return static_cast<int>(threadIdx.x % kPair) * kNeighbours;
}
/// Where the thread's value i lies, from first_held on.
__device__ __forceinline__ constexpr int place_of(int i) {
  return i / kNeighbours * (kPair * kNeighbours) + i % kNeighbours;
}

/// A thread's values of a group; `from` is at first_held.
template <typename T>
__device__ __forceinline__ void load_held(float (&x)[kHeld], const T* from) {
#pragma unroll
  for (int i = 0; i < kHeld; i += kNeighbours) {
    float part[kNeighbours];
    load_values(part, from + place_of(i));
#pragma unroll
    for (int k = 0; k < kNeighbours; ++k) x[i + k] = part[k];
  }
}
template <typename T>
__device__ __forceinline__ void store_held(T* to, const float (&x)[kHeld]) {
#pragma unroll
  for (int i = 0; i < kHeld; i += kNeighbours) {
    float part[kNeighbours];
#pragma unroll
    for (int k = 0; k < kNeighbours; ++k) part[k] = x[i + k];
    store_values(to + place_of(i), part);
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
template <int kHalf>
__device__ __forceinline__ void rotate_stage(float (&x)[kHeld]) {
  if constexpr (kHalf != kNeighbours) {
    constexpr int kStep = kHalf < kNeighbours ? kHalf : kHalf / kPair;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if ((i & kStep) != 0) continue;
      const float sum = x[i] + x[i + kStep];
      x[i + kStep] = x[i] - x[i + kStep];
      x[i] = sum;
    }
  } else {
    // The product with 1 or -1 is exact: one rounding, as in an addition.
    const float sign = second_of_pair() ? -1.0f : 1.0f;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) x[i] = fmaf(x[i], sign, __shfl_xor_sync(kAllLanes, x[i], 1));
  }
}

/// The transform of a group in blocks of `block`, or of 128 where that is less; unnormalized.
__device__ __forceinline__ void rotate_held(float (&x)[kHeld], int block) {
  if (block > 64) rotate_stage<64>(x);
  if (block > 32) rotate_stage<32>(x);
  if (block > 16) rotate_stage<16>(x);
  if (block > 1) rotate_stage<1>(x);
  if (block > 2) rotate_stage<2>(x);
  if (block > 4) rotate_stage<4>(x);
  if (block > 8) rotate_stage<8>(x);
}

/// Values of a row that one sum of squares in f32 covers, in all of the 16 lanes.
__device__ __forceinline__ constexpr int summed_at_once(int block) {
  return block >= kGroup ? kGroup : block < kLanes ? kLanes : block;
}

/// Sums of squares of the group in each lane, in the CPU's order, to sums[place][lane], one place
/// for each summed_at_once(block) columns of the row: in order, or where squares are exact in two
/// sums, of every second value of the lane.
__device__ __forceinline__ void write_squares(float* sums, const float (&x)[kHeld], int block,
                                              bool exact) {
  const int each = summed_at_once(block) / kLanes;  // values of a sum
  const bool in_two = exact && each > 1;
  float* const to = sums + threadIdx.x / kPair * (kGroup / each) + first_held();
  float even[kNeighbours] = {}, odd[kNeighbours] = {};
#pragma unroll
  for (int i = 0; i < kHeld / kNeighbours; ++i) {
#pragma unroll
    for (int k = 0; k < kNeighbours; ++k) {
      const float value = x[kNeighbours * i + k];
      if (in_two && i % 2 != 0) {
        odd[k] = fmaf(value, value, odd[k]);
      } else {
        even[k] = exact ? fmaf(value, value, even[k]) : even[k] + value * value;
      }
    }
    if ((i + 1) % each != 0) continue;
#pragma unroll
    for (int k = 0; k < kNeighbours; ++k) even[k] = in_two ? even[k] + odd[k] : even[k];
    store_values(to + ((i + 1) / each - 1) * kLanes, even);
#pragma unroll
    for (int k = 0; k < kNeighbours; ++k) even[k] = odd[k] = 0.0f;
  }
}

/// The group's mask of columns 64 t .. 64 t + 63 in thread t of the pair, where bit i of `bits` is
/// that of the thread's value i.
__device__ __forceinline__ uint2 mask_in_order(uint2 bits) {
  const bool second = second_of_pair();
  const unsigned kept = second ? bits.y : bits.x;
  const unsigned other = __shfl_xor_sync(kAllLanes, second ? bits.x : bits.y, 1);
  const unsigned low = second ? other : kept, high = second ? kept : other;
  return make_uint2(__byte_perm(low, high, 0x5140u), __byte_perm(low, high, 0x7362u));
}

}  // namespace quest::cuda
