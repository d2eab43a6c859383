// Groups of 128 values of a row as a few threads hold them, and what these do with them in
// registers: rotation, sums of squares, bits of a mask.
//
// A thread holds kHeld values of a group: 64 where many rows keep the device busy, 8 or 16 where a
// single row is waited for. Of each 16 columns it has those of its own place, kHeld / 8 side by
// side. Then the stages of the transform between columns that are 16 or more apart are additions in
// registers, and sums of squares need no other thread. The order of all operations is that of the
// CPU's kernels (cpu/quantized/quantize_rows.inc.h), so codes, steps and masks are the same bits
// there and here; which thread holds a value does not show.
#pragma once

#include "backend/cuda/float_vectors.cuh"

namespace quest::cuda {

inline constexpr int kGroup = 128;
inline constexpr int kLanes = 16;  // sums of squares of a row, by column modulo 16
inline constexpr int kWide = 64;  // values of a group that a thread holds where there are many rows

/// Threads of a group where each holds kHeld values of it.
template <int kHeld>
inline constexpr int kSharers = kGroup / kHeld;
/// Of a thread's values, those that lie side by side.
template <int kHeld>
inline constexpr int kNeighbours = kLanes / kSharers<kHeld>;

/// This thread's place among those of its group.
template <int kHeld>
__device__ __forceinline__ int place_in_group() {
  return static_cast<int>(threadIdx.x) % kSharers<kHeld>;
}
/// The first column of this thread's group where the block of threads takes the columns from 0 on.
template <int kHeld>
__device__ __forceinline__ int group_of_thread() {
  return static_cast<int>(threadIdx.x) / kSharers<kHeld> * kGroup;
}
/// Columns that the block of threads takes at once.
template <int kHeld>
__device__ __forceinline__ int columns_at_once() {
  return static_cast<int>(blockDim.x) * kHeld;
}

/// The first of this thread's columns in a group.
template <int kHeld>
__device__ __forceinline__ int first_held() {
  return place_in_group<kHeld>() * kNeighbours<kHeld>;
}
/// Where the thread's value i lies, from first_held on.
template <int kHeld>
__device__ __forceinline__ constexpr int place_of(int i) {
  return i / kNeighbours<kHeld> * kLanes + i % kNeighbours<kHeld>;
}

/// A thread's values of a group; `from` is at first_held.
template <int kHeld, typename T>
__device__ __forceinline__ void load_held(float (&x)[kHeld], const T* from) {
  constexpr int kCount = kNeighbours<kHeld>;
#pragma unroll
  for (int i = 0; i < kHeld; i += kCount) {
    float part[kCount];
    load_values(part, from + place_of<kHeld>(i));
#pragma unroll
    for (int k = 0; k < kCount; ++k) x[i + k] = part[k];
  }
}
template <int kHeld, typename T>
__device__ __forceinline__ void store_held(T* to, const float (&x)[kHeld]) {
  constexpr int kCount = kNeighbours<kHeld>;
#pragma unroll
  for (int i = 0; i < kHeld; i += kCount) {
    float part[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) part[k] = x[i + k];
    store_values(to + place_of<kHeld>(i), part);
  }
}

template <int kHeld>
__device__ __forceinline__ void clear_held(float (&x)[kHeld]) {
#pragma unroll
  for (int i = 0; i < kHeld; ++i) x[i] = 0.0f;
}

/// The values as a store in bf16 leaves them.
template <int kHeld>
__device__ __forceinline__ void round_held(float (&x)[kHeld]) {
#pragma unroll
  for (int i = 0; i < kHeld; i += 2) unpack_bf16_pair(x[i], x[i + 1], bf16_pair(x[i], x[i + 1]));
}

/// One stage of the transform, between columns that are kHalf apart.
template <int kHalf, int kHeld>
__device__ __forceinline__ void rotate_stage(float (&x)[kHeld]) {
  constexpr int kCount = kNeighbours<kHeld>;
  if constexpr (kHalf < kCount || kHalf >= kLanes) {
    constexpr int kStep = kHalf < kCount ? kHalf : kHalf / kSharers<kHeld>;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if ((i & kStep) != 0) continue;
      const float sum = x[i] + x[i + kStep];
      x[i + kStep] = x[i] - x[i + kStep];
      x[i] = sum;
    }
  } else {
    // The product with 1 or -1 is exact: one rounding, as in an addition.
    constexpr int kApart = kHalf / kCount;
    const float sign = (place_in_group<kHeld>() & kApart) != 0 ? -1.0f : 1.0f;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      x[i] = fmaf(x[i], sign, __shfl_xor_sync(kAllLanes, x[i], kApart));
    }
  }
}

/// The transform of a group in blocks of `block`, or of 128 where that is less; unnormalized.
template <int kHeld>
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
template <int kHeld>
__device__ __forceinline__ void write_squares(float* sums, const float (&x)[kHeld], int block,
                                              bool exact) {
  constexpr int kCount = kNeighbours<kHeld>;
  const int each = summed_at_once(block) / kLanes;  // values of a sum
  const bool in_two = exact && each > 1;
  float* const to =
      sums + group_of_thread<kHeld>() / kGroup * (kGroup / each) + first_held<kHeld>();
  float even[kCount] = {}, odd[kCount] = {};
#pragma unroll
  for (int i = 0; i < kHeld / kCount; ++i) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const float value = x[kCount * i + k];
      if (in_two && i % 2 != 0) {
        odd[k] = fmaf(value, value, odd[k]);
      } else {
        even[k] = exact ? fmaf(value, value, even[k]) : even[k] + value * value;
      }
    }
    if ((i + 1) % each != 0) continue;
#pragma unroll
    for (int k = 0; k < kCount; ++k) even[k] = in_two ? even[k] + odd[k] : even[k];
    store_values(to + ((i + 1) / each - 1) * kLanes, even);
#pragma unroll
    for (int k = 0; k < kCount; ++k) even[k] = odd[k] = 0.0f;
  }
}

/// The group's mask of columns 64 t .. 64 t + 63 in thread t of the pair, where bit i of `bits` is
/// that of the thread's value i. Two threads have the group.
__device__ __forceinline__ uint2 mask_in_order(uint2 bits) {
  const bool second = place_in_group<kWide>() != 0;
  const unsigned kept = second ? bits.y : bits.x;
  const unsigned other = __shfl_xor_sync(kAllLanes, second ? bits.x : bits.y, 1);
  const unsigned low = second ? other : kept, high = second ? kept : other;
  return make_uint2(__byte_perm(low, high, 0x5140u), __byte_perm(low, high, 0x7362u));
}

}  // namespace quest::cuda
